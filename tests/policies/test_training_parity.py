"""Log-probabilities, entropies and gradients against the recorded reference update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

TEMPERATURE = 1.6
CLIP_LOW, CLIP_HIGH = 0.2, 0.28


@pytest.mark.parametrize("suite", ["libero", "robotwin"])
def test_log_probs_entropies_and_gradients(recorded, suite):
    arrays = recorded.arrays(f"train_{suite}")
    policy = recorded.policy(f"{suite}_bf16")
    mask = torch.from_numpy(arrays["response_mask"])
    old = torch.from_numpy(arrays["old_log_probs"])
    advantages = torch.from_numpy(arrays["advantages"])
    for i in range(len(mask)):
        trajectory = {key: arrays[key][i] for key in ("input_ids", "attention_mask", "proprio") if key in arrays}
        inputs = recorded.inputs(trajectory, arrays["images_u8"][i][:, None])
        log_probs, entropies = policy.log_probs(inputs, arrays["responses"][i], TEMPERATURE)
        log_probs, entropies = log_probs.flatten(), entropies.flatten()
        compare(log_probs.detach() * mask[i], arrays["log_probs"][i], 1e-4)
        compare(entropies.detach() * mask[i], arrays["entropies"][i], 1e-4)
        ratio = (log_probs - old[i]).exp()
        clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
        loss = torch.maximum(-advantages[i] * ratio, -advantages[i] * clipped)[mask[i]].mean()
        compare(loss.detach(), arrays["pg_loss_per_trajectory"][i], 1e-5)
        (loss / len(mask)).backward()

    parameters = dict(policy.model.named_parameters())
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    np.testing.assert_allclose(norm, arrays["grad_norm_total"], rtol=1e-4)
    for key, expected in arrays.items():
        if key.startswith("grad__"):
            assert_relative(gradients[key.removeprefix("grad__")], expected, key)
    head = gradients["language_model.lm_head.weight"]
    assert_relative(head[31744:32000], arrays["grad_lm_head_action_rows"], "lm_head")
    assert torch.count_nonzero(head[:31744]) == torch.count_nonzero(head[32000:]) == 0
    embeddings = gradients["language_model.model.embed_tokens.weight"]
    assert_relative(embeddings[arrays["embed_rows_ids"]], arrays["grad_embed_rows"], "embed_tokens")
    touched = embeddings.abs().sum(dim=1).nonzero().flatten()
    assert set(touched.tolist()) <= set(arrays["embed_rows_ids"].tolist())

    unused = ("featurizer.blocks.2.", "fused_featurizer.blocks.3.", "featurizer.norm.", "attn_pool.")
    without = {name for name in parameters if name not in gradients}
    assert without
    assert all(any(part in name for part in unused) for name in without)


def compare(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, atol=tolerance, rtol=0)


def assert_relative(actual: torch.Tensor, expected: np.ndarray, name: str) -> None:
    difference = np.linalg.norm(actual.numpy() - expected) / np.linalg.norm(expected)
    assert difference < 1e-3, f"{name}: relative gradient error {difference:.2e}"
