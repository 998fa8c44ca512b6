"""Low-rank adapters: what they change, what is trained, and that merging is exact up to rounding."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from torch import nn

from policies.openvla_oft import LoRAConfig, OpenVLAOFT, OpenVLAOFTConfig, add_lora, lora_state_dict, merge_lora
from policies.openvla_oft.lora import LINEAR_LAYERS, LoRALinear, MergedWeights


def train_a_little(policy, inputs) -> None:
    """Three large steps on the adapters."""
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        policy.action_logits(inputs)[..., 0].mean().backward()
        optimizer.step()


def test_an_untrained_adapter_changes_nothing(tiny_policy, tiny_inputs):
    before = tiny_policy.action_logits(tiny_inputs)
    add_lora(tiny_policy.model, LoRAConfig(rank=4))
    assert torch.equal(tiny_policy.action_logits(tiny_inputs), before)


def test_only_adapters_are_trained_and_all_of_them_are(tiny_policy, tiny_inputs):
    frozen = {name: value.clone() for name, value in tiny_policy.model.state_dict().items()}
    add_lora(tiny_policy.model, LoRAConfig(rank=4))
    trainable = {name for name, p in tiny_policy.model.named_parameters() if p.requires_grad}
    assert trainable == set(lora_state_dict(tiny_policy.model))
    train_a_little(tiny_policy, tiny_inputs)
    for name, parameter in tiny_policy.model.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name
        assert name in trainable or torch.equal(parameter, frozen[name]), name


def test_every_computed_linear_layer_but_the_head_is_adapted():
    """Counted by hand for `tiny`: towers of 4 and 3 blocks without their last, 4 decoder layers, the projector."""
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny", use_proprio=True))
    add_lora(model, LoRAConfig(rank=2))
    adapted = {name.removesuffix(".lora_A") for name in lora_state_dict(model) if name.endswith("lora_A")}
    assert len(adapted) == 4 * (3 + 2) + 7 * 4 + 3 + 2
    assert not any("lm_head" in name or "attn_pool" in name for name in adapted)
    assert {name.rpartition(".")[2] for name in adapted} == set(LINEAR_LAYERS)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_merging_gives_the_same_logits(tiny_policy, tiny_inputs, dtype, tolerance):
    names = list(tiny_policy.model.state_dict())
    tiny_policy.model.to(dtype)
    with torch.no_grad():
        start = tiny_policy.action_logits(tiny_inputs)
    add_lora(tiny_policy.model, LoRAConfig(rank=4, alpha=8))
    train_a_little(tiny_policy, tiny_inputs)
    with torch.no_grad():
        adapted = tiny_policy.action_logits(tiny_inputs)
        merge_lora(tiny_policy.model)
        merged = tiny_policy.action_logits(tiny_inputs)
    assert (adapted - start).abs().max() > 10 * tolerance
    torch.testing.assert_close(merged, adapted, atol=tolerance, rtol=0)
    assert list(tiny_policy.model.state_dict()) == names
    assert all(p.requires_grad and p.dtype == dtype for p in tiny_policy.model.parameters())


def test_merged_weights_are_those_of_the_merged_model_and_are_not_kept(tiny_policy, tiny_inputs, tmp_path, monkeypatch):
    add_lora(tiny_policy.model, LoRAConfig(rank=4, alpha=8))
    train_a_little(tiny_policy, tiny_inputs)
    sums, most_alive = [], 0
    merged = LoRALinear.merged

    def watched(layer):
        nonlocal most_alive
        linear = merged(layer)
        sums.append(weakref.ref(linear.weight))
        most_alive = max(most_alive, sum(ref() is not None for ref in sums))
        return linear

    monkeypatch.setattr(LoRALinear, "merged", watched)
    weights = MergedWeights(tiny_policy.model)
    tiny_policy.save_pretrained(tmp_path / "saved", state_dict=weights, dtype=torch.bfloat16)
    assert len(sums) > 100
    assert most_alive <= 2
    merge_lora(tiny_policy.model)
    expected = tiny_policy.model.state_dict()
    assert list(weights) == list(expected)
    loaded = type(tiny_policy).from_pretrained(tmp_path / "saved").model.state_dict()
    for key, value in expected.items():
        assert torch.equal(loaded[key], value.bfloat16().float()), key


def test_a_layer_is_its_formula():
    torch.manual_seed(0)
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny"))
    add_lora(model, LoRAConfig(rank=8, alpha=24))
    layer = model.projector.fc2
    nn.init.normal_(layer.lora_B)
    assert layer.lora_A.std().item() == pytest.approx(1 / 8, rel=0.1)
    x = torch.randn(5, layer.in_features)
    expected = x @ layer.weight.T + layer.bias + 3 * (x @ layer.lora_A.T) @ layer.lora_B.T
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-5)


def test_layers_can_be_chosen():
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny"))
    add_lora(model, LoRAConfig(rank=2, target=("q_proj", "v_proj")))
    assert len(lora_state_dict(model)) == 4 * 2 * 2
    with pytest.raises(ValueError, match="already"):
        add_lora(model, LoRAConfig())


def test_adapters_are_drawn_alike_in_every_process():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny"))
        add_lora(model, LoRAConfig(rank=2))
        states.append(lora_state_dict(model))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_shapes_are_computed_without_values():
    """`rllib plan` measures on the meta device, which autocast does not know."""
    layer = LoRALinear(nn.Linear(6, 5, device="meta"), 2, 1.0, torch.Generator())
    assert layer(torch.empty(3, 6, device="meta")).shape == (3, 5)


def test_share_of_the_7b_model():
    """32 layers of 7 matrices and the towers: 1.5 % of the weights at rank 32."""
    with torch.device("meta"):
        model = OpenVLAOFT(OpenVLAOFTConfig.preset("7b"))
        total = sum(p.numel() for p in model.parameters())
    add_lora(model, LoRAConfig(rank=32))
    trainable = sum(math.prod(value.shape) for value in lora_state_dict(model).values())
    llama = 32 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert llama < trainable < 0.016 * total


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rnk": 8}, "unknown key 'rnk'; did you mean 'rank'"),
        ({"rank": 0}, "at least 1"),
        ({"rank": 2.5}, "whole number"),
        ({"alpha": 0}, "positive number"),
        ({"dropout": 0.1}, "must be 0"),
        ({"target": "all"}, "'all-linear' or a list"),
        ({"target": []}, "'all-linear' or a list"),
        ({"target": ["q_pro"]}, "did you mean 'q_proj'"),
        (32, "must be a mapping"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LoRAConfig.from_dict(values)


@pytest.mark.parametrize("shape", [(3, 6), (2, 3, 6)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_gradients_are_the_derivatives_of_the_formula(shape, has_bias):
    torch.manual_seed(0)
    linear = nn.Linear(6, 5, bias=has_bias).double().requires_grad_(False)
    layer = LoRALinear(linear, 2, 1.5, torch.Generator().manual_seed(0)).double()
    nn.init.normal_(layer.lora_B)

    def call(x, a, b):
        return torch.func.functional_call(layer, {"lora_A": a, "lora_B": b}, x)

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, layer.lora_A, layer.lora_B))


def test_float32_adapters_of_a_bfloat16_layer_get_float32_gradients():
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16().requires_grad_(False)
    layer = LoRALinear(linear, 4, 2.0, torch.Generator().manual_seed(0))
    nn.init.normal_(layer.lora_B)
    x = torch.randn(7, 64, dtype=torch.bfloat16, requires_grad=True)
    layer(x).float().square().sum().backward()
    gradients = x.grad, layer.lora_A.grad, layer.lora_B.grad
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    exact_x, a, b = (t.detach().double().requires_grad_() for t in (x, layer.lora_A, layer.lora_B))
    (exact_x @ linear.weight.double().T + linear.bias.double() + 2 * exact_x @ a.T @ b.T).square().sum().backward()
    for gradient, exact in zip(gradients, (exact_x.grad, a.grad, b.grad), strict=True):
        assert (gradient.double() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_autocast_computes_as_a_layer_of_its_type_does(frozen, given):
    """Norms hand on float32 under autocast, and frozen weights may be in either type."""
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(64, 32).to(frozen).requires_grad_(False), 4, 2.0, torch.Generator().manual_seed(0))
    nn.init.normal_(layer.lora_B)
    plain = LoRALinear(nn.Linear(64, 32).bfloat16(), 4, 2.0, torch.Generator())
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(7, 64, dtype=given, requires_grad=True)
    y = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        out.float().sum().backward()
    plain(y).float().sum().backward()
    assert torch.equal(out, plain(y))
    assert x.grad.dtype == given
    assert torch.equal(x.grad, y.grad.to(given))
    for name in ("lora_A", "lora_B"):
        own, expected = getattr(layer, name).grad, getattr(plain, name).grad
        assert own.dtype == torch.float32
        assert torch.equal(own, expected)
