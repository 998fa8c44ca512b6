"""From logits to tokens and log-probabilities: the one place shared by sampler and learner.

All distributions are over the 256 action bins of each token, at temperature T, in float32 (simplevla_rl_spec
3.8). A token is a bin index 0..255 in order of rising vocabulary id.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_probs_from_logits(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities ``[B, N, 256] float32`` of ``softmax(logits / T)``."""
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}; for the most likely token use greedy()")
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def greedy(logits: Tensor) -> Tensor:
    """Most likely bins ``[B, N] int64``."""
    return logits.argmax(dim=-1)


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw one bin per token.

    Args:
        logits: ``[B, N, 256]``.
        temperature: T > 0.
        generator: Source of randomness, on the device of `logits`.

    Returns:
        Bins ``[B, N] int64`` and their log-probabilities ``[B, N] float32`` at temperature T.
    """
    log_probs = log_probs_from_logits(logits, temperature)
    uniforms = torch.rand(log_probs.shape[:-1], generator=generator, device=log_probs.device)
    bins = sample_by_inverse_cdf(log_probs, uniforms)
    return bins, gather(log_probs, bins)


def sample_by_inverse_cdf(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one bin per token with given noise, so that a draw can be repeated whatever batch it is part of.

    Args:
        log_probs: ``[B, N, 256]``.
        uniforms: ``[B, N] float32`` in [0, 1), one per token.

    Returns:
        Bins ``[B, N] int64``: the first whose cumulative probability exceeds the uniform number.
    """
    # One random number per token instead of 256: ten times as fast on a CPU as torch.multinomial. Rounding may leave
    # the last cumulative value short of 1; scaling the noise keeps every draw inside. A bin of probability zero is
    # never the first to exceed it.
    cumulative = log_probs.exp().cumsum(dim=-1)
    threshold = uniforms.unsqueeze(-1) * cumulative[..., -1:]
    bins = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    return bins.clamp_(max=log_probs.shape[-1] - 1)


def token_log_probs(logits: Tensor, bins: Tensor, temperature: float) -> Tensor:
    """Log-probabilities ``[B, N] float32`` of given `bins` ``[B, N]`` at temperature T."""
    return gather(log_probs_from_logits(logits, temperature), bins)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats ``[B, N] float32`` of log-probabilities ``[B, N, 256]``."""
    return -(log_probs.exp() * log_probs).sum(dim=-1)


def gather(log_probs: Tensor, bins: Tensor) -> Tensor:
    """Entries `bins` ``[B, N]`` of ``[B, N, 256]``."""
    return log_probs.gather(-1, bins.long().unsqueeze(-1)).squeeze(-1)
