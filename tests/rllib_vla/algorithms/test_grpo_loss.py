import numpy as np
import pytest
import torch

from rllib_vla.algorithms.grpo.torch.grpo_loss import categorical_kl, clipped_policy_loss

CLIP = {"clip_low": 0.2, "clip_high": 0.28}


def loss_of(ratio: float, advantage: float, **kwargs):
    old = torch.tensor([[-2.0]])
    new = old + float(np.log(ratio))
    return clipped_policy_loss(new, old, torch.tensor([advantage]), **(CLIP | kwargs))


def test_agrees_with_the_recorded_reference(reference_fixtures):
    data = {k: torch.from_numpy(v) for k, v in np.load(reference_fixtures / "policy_loss.npz").items()}
    log_prob = data["log_prob"].clone().requires_grad_(True)
    mask = data["mask"]
    token = clipped_policy_loss(log_prob, data["old_log_prob"], data["advantages"], **CLIP)

    loss = (token.policy_loss * mask).sum() / mask.sum()
    loss.backward()
    assert abs(loss.item() - data["loss"].item()) < 1e-6
    assert torch.allclose(log_prob.grad, data["grad_log_prob"], atol=1e-7)

    clipped = (token.clipped_low | token.clipped_high) & mask
    assert abs(clipped.sum().item() / mask.sum().item() - data["clipfrac"].item()) < 1e-6
    kl = ((data["old_log_prob"] - log_prob) * mask).sum() / mask.sum()
    assert abs(kl.item() - data["ppo_kl"].item()) < 1e-6

    for row in range(len(mask)):
        count = max(int(mask[row].sum()), 1)
        assert abs((token.policy_loss[row] * mask[row]).sum().item() / count - data["row_loss"][row].item()) < 1e-6
        assert abs(clipped[row].sum().item() / count - data["row_clipfrac"][row].item()) < 1e-6


# ratio, advantage -> loss, which bound is active. By hand: -A * clip(r, 0.8, 1.28), pessimistic.
CASES = [
    (1.0, 2.0, -2.0, None),
    (1.27, 2.0, -2.54, None),
    (1.5, 2.0, -2.56, "high"),
    (0.5, 2.0, -1.0, None),
    (0.81, -2.0, 1.62, None),
    (0.5, -2.0, 1.6, "low"),
    (1.5, -2.0, 3.0, None),
]


@pytest.mark.parametrize(("ratio", "advantage", "expected", "bound"), CASES)
def test_asymmetric_range(ratio, advantage, expected, bound):
    token = loss_of(ratio, advantage)
    assert token.policy_loss.item() == pytest.approx(expected, rel=1e-5)
    assert token.ratio.item() == pytest.approx(ratio, rel=1e-5)
    assert token.clipped_low.item() == (bound == "low")
    assert token.clipped_high.item() == (bound == "high")


def test_clipped_tokens_have_no_gradient():
    old = torch.zeros(1, 2)
    new = torch.tensor([[np.log(1.5), np.log(1.2)]], dtype=torch.float32, requires_grad=True)
    clipped_policy_loss(new, old, torch.tensor([1.0]), **CLIP).policy_loss.sum().backward()
    assert new.grad[0, 0] == 0
    assert new.grad[0, 1].item() == pytest.approx(-1.2, rel=1e-5)


def test_dual_clip_bounds_only_negative_advantages():
    assert loss_of(10.0, -2.0).policy_loss.item() == pytest.approx(20.0, rel=1e-5)
    assert loss_of(10.0, -2.0, dual_clip=3.0).policy_loss.item() == pytest.approx(6.0, rel=1e-5)
    assert loss_of(2.0, -2.0, dual_clip=3.0).policy_loss.item() == pytest.approx(4.0, rel=1e-5)
    assert loss_of(10.0, 2.0, dual_clip=3.0).policy_loss.item() == pytest.approx(-2.56, rel=1e-5)


def test_one_advantage_per_row_equals_one_per_token():
    new, old = torch.randn(3, 5), torch.randn(3, 5)
    advantages = torch.tensor([1.0, -0.5, 2.0])
    per_row = clipped_policy_loss(new, old, advantages, **CLIP).policy_loss
    per_token = clipped_policy_loss(new, old, advantages[:, None].expand(3, 5), **CLIP).policy_loss
    assert torch.equal(per_row, per_token)


def test_kl_is_exact_and_not_negative():
    torch.manual_seed(0)
    p, q = torch.log_softmax(torch.randn(20, 3, 256), -1), torch.log_softmax(torch.randn(20, 3, 256), -1)
    kl = categorical_kl(p, q)
    assert kl.shape == (20, 3)
    assert (kl > 0).all()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    )
    assert torch.allclose(kl, expected, atol=1e-5)
    assert categorical_kl(p, p).abs().max() == 0


def test_kl_of_two_bins_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3), rel=1e-5)
