"""Sampling is exact, reproducible, and agrees with the learner's log-probabilities."""

from __future__ import annotations

import pytest
import torch

from policies.openvla_oft import sampling


@pytest.fixture
def logits():
    return torch.randn(3, 5, 256, generator=torch.Generator().manual_seed(0)) * 3


def test_log_probs_are_a_tempered_softmax(logits):
    expected = torch.softmax(logits.double() / 1.6, dim=-1).log()
    torch.testing.assert_close(sampling.log_probs_from_logits(logits, 1.6).double(), expected, atol=1e-5, rtol=0)


def test_sampler_and_learner_agree_exactly(logits):
    bins, logp = sampling.sample(logits, 1.6, torch.Generator().manual_seed(1))
    assert bins.dtype == torch.int64
    assert logp.dtype == torch.float32
    assert torch.equal(sampling.token_log_probs(logits, bins, 1.6), logp)


def test_generator_decides(logits):
    draw = [sampling.sample(logits, 1.0, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_given_noise_decides_whatever_the_batch(logits):
    log_probs = sampling.log_probs_from_logits(logits, 1.6)
    uniforms = torch.rand(3, 5, generator=torch.Generator().manual_seed(2))
    together = sampling.sample_by_inverse_cdf(log_probs, uniforms)
    for i in range(3):
        alone = sampling.sample_by_inverse_cdf(log_probs[i : i + 1], uniforms[i : i + 1])
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(("uniform", "bin_index"), [(0.0, 10), (0.499, 10), (0.501, 20), (1 - 2**-24, 20)])
def test_extreme_noise_never_draws_an_impossible_bin(uniform, bin_index):
    logits = torch.full((1, 1, 256), -torch.inf)
    logits[..., [10, 20]] = 0.0
    bins = sampling.sample_by_inverse_cdf(logits.log_softmax(-1), torch.tensor([[uniform]]))
    assert bins.item() == bin_index


def test_frequencies_match_probabilities():
    logits = torch.full((256,), -30.0)
    logits[[3, 100, 200]] = torch.tensor([1.0, 0.0, 2.0])
    draws = 60_000
    bins, _ = sampling.sample(logits.expand(1, draws, 256), 1.6, torch.Generator().manual_seed(0))
    frequency = torch.bincount(bins.flatten(), minlength=256) / draws
    probability = torch.softmax(logits / 1.6, dim=-1)
    # Five standard deviations of the most uncertain frequency.
    torch.testing.assert_close(frequency, probability, atol=5 * (0.25 / draws) ** 0.5, rtol=0)


def test_entropy():
    uniform = sampling.log_probs_from_logits(torch.zeros(1, 2, 256), 1.0)
    torch.testing.assert_close(sampling.entropy(uniform), torch.full((1, 2), 256.0).log())
    peaked = sampling.log_probs_from_logits(torch.eye(256)[None] * 1000, 1.0)
    assert sampling.entropy(peaked).abs().max() < 1e-6


def test_bfloat16_logits_are_handled_in_float32(logits):
    rounded = logits.bfloat16()
    exact = sampling.log_probs_from_logits(rounded.float(), 1.6)
    assert torch.equal(sampling.log_probs_from_logits(rounded, 1.6), exact)


def test_temperature_zero_is_refused(logits):
    with pytest.raises(ValueError, match="greedy"):
        sampling.sample(logits, 0.0)
