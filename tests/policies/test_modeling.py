"""Properties of the network that must hold at any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from policies.openvla_oft import OpenVLAOFT, OpenVLAOFTConfig
from policies.openvla_oft.language import LanguageModel, LlamaBackbone, RMSNorm, SelfAttention
from policies.openvla_oft.vision import sin_cos_positions


def test_shape_dtype_and_size(tiny_policy, tiny_inputs):
    logits = tiny_policy.action_logits(tiny_inputs)
    assert logits.shape == (3, 56, 256)
    assert logits.dtype == torch.float32
    assert 1e6 <= sum(p.numel() for p in tiny_policy.model.parameters()) <= 5e6


def test_mixed_lengths_equal_single_prompts(tiny_policy, tiny_inputs):
    with torch.no_grad():
        together = tiny_policy.action_logits(tiny_inputs)
        lengths = tiny_inputs["attention_mask"].sum(axis=1)
        assert len(set(lengths)) > 1
        for i, length in enumerate(lengths):
            alone = {key: value[i : i + 1] for key, value in tiny_inputs.items()}
            alone |= {key: alone[key][:, :length] for key in ("input_ids", "attention_mask")}
            torch.testing.assert_close(tiny_policy.action_logits(alone)[0], together[i], atol=1e-5, rtol=0)


def test_action_slots_are_added_where_actions_are_read(tiny_policy, tiny_inputs):
    model, tensors = tiny_policy.model, tiny_policy.to_device(tiny_inputs)
    with torch.no_grad():
        embeds, _, first = model.multimodal_embeds(**tensors)
        slots = model.action_slot_embeddings.clone()
        model.action_slot_embeddings.zero_()
        added = embeds - model.multimodal_embeds(**tensors)[0]
    for row, start in zip(added, first, strict=True):
        torch.testing.assert_close(row[start : start + 56], slots, atol=1e-5, rtol=0)
        assert not row[:start].any()
        assert not row[start + 56 :].any()


def test_released_architecture_has_no_slot_embeddings():
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny", action_slot_embeddings=False))
    assert not any("slot" in name for name, _ in model.named_parameters())
    assert not OpenVLAOFTConfig.preset("7b").action_slot_embeddings


@pytest.mark.parametrize("dim", [64, 96, 70])
def test_start_positions_tell_patches_apart(dim):
    positions = sin_cos_positions(64, dim)
    assert positions.shape == (1, 64, dim)
    distances = torch.cdist(positions[0], positions[0]) + 10 * torch.eye(64)
    assert distances.min() > 0.5


def test_first_policy_is_nearly_uniform(tiny_policy, tiny_inputs):
    probabilities = tiny_policy.action_logits(tiny_inputs).softmax(dim=-1)
    assert probabilities.max() < 5 / 256


def test_agrees_with_transformers_llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = OpenVLAOFTConfig.preset("tiny", num_key_value_heads=2)
    ours = LanguageModel(config)
    theirs = transformers.LlamaModel(
        transformers.LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            rms_norm_eps=config.rms_norm_eps,
            vocab_size=config.vocab_size,
        )
    ).eval()
    theirs.load_state_dict(ours.model.state_dict())
    embeds = torch.randn(2, 20, config.hidden_size)
    key_mask = torch.arange(20) < torch.tensor([[20], [13]])
    positions = torch.tensor([[3, 7, 12], [0, 5, 12]])
    with torch.no_grad():
        hidden = ours.model(embeds, key_mask, positions)
        full = key_mask[:, None, None, :].expand(-1, 1, 20, -1)
        expected = theirs(inputs_embeds=embeds, attention_mask=full).last_hidden_state
    torch.testing.assert_close(hidden, expected[torch.arange(2)[:, None], positions], atol=2e-5, rtol=0)


def test_every_action_sees_the_whole_prompt_and_image(tiny_policy, tiny_inputs):
    with torch.no_grad():
        before = tiny_policy.action_logits(tiny_inputs)
        changed = dict(tiny_inputs)
        changed["images"] = tiny_inputs["images"].copy()
        changed["images"][0, 0, -12:, -12:] ^= 128
        after = tiny_policy.action_logits(changed)
    moved = (after - before).abs().amax(dim=-1)
    assert (moved[0] > 0).all()
    assert (moved[1:] == 0).all()


def test_only_unused_vision_parts_have_no_gradient(tiny_policy, tiny_inputs):
    tiny_policy.action_logits(tiny_inputs).logsumexp(dim=-1).mean().backward()
    unused = ("featurizer.blocks.3.", "fused_featurizer.blocks.2.", "featurizer.norm.", "attn_pool.")
    listed = {id(p) for part in tiny_policy.model.idle_parts() for p in part.parameters()}
    for name, parameter in tiny_policy.model.named_parameters():
        idle = any(f"{part}" in name for part in unused)
        assert (parameter.grad is None) == idle == (id(parameter) in listed), name
        assert idle or parameter.grad.abs().sum() > 0, name


def test_missing_proprio_is_refused():
    model = OpenVLAOFT(OpenVLAOFTConfig.preset("tiny", use_proprio=True))
    images = torch.zeros(1, 1, 96, 96, 3, dtype=torch.uint8)
    prompt = torch.tensor([[1, 260, 259]])
    assert model(images, prompt, torch.ones_like(prompt), torch.zeros(1, 8)).shape == (1, 56, 256)
    with pytest.raises(ValueError, match="proprio"):
        model(images, prompt, torch.ones_like(prompt))


def test_self_check_notices_wrong_attention(tiny_policy, monkeypatch):
    tiny_policy.model.check_attention()
    attention = F.scaled_dot_product_attention

    def causal(q, k, v, attn_mask=None, **kwargs):
        return attention(q, k, v, is_causal=True)

    def unmasked(q, k, v, attn_mask=None, **kwargs):
        return attention(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", causal)
    with pytest.raises(RuntimeError, match="causal"):
        tiny_policy.model.check_attention()
    monkeypatch.setattr(F, "scaled_dot_product_attention", unmasked)
    with pytest.raises(RuntimeError, match="padding"):
        tiny_policy.model.check_attention()


def test_self_check_notices_wrong_masks(tiny_policy, monkeypatch):
    def masks(self, key_mask, positions):
        return key_mask[:, None, None, :], torch.ones_like(key_mask)[:, None, None, :]

    monkeypatch.setattr(LlamaBackbone, "masks", masks)
    with pytest.raises(RuntimeError, match="padding"):
        tiny_policy.model.check_attention()


def test_last_layer_computes_asked_positions_only(monkeypatch):
    config = OpenVLAOFTConfig.preset("tiny")
    seen = []
    forward = SelfAttention.forward

    def spy(self, *arguments):
        out = forward(self, *arguments)
        seen.append(out.shape[1])
        return out

    monkeypatch.setattr(SelfAttention, "forward", spy)
    images = torch.zeros(1, 1, 96, 96, 3, dtype=torch.uint8)
    prompt = torch.tensor([[1, 260, 259]])
    OpenVLAOFT(config)(images, prompt, torch.ones_like(prompt))
    sequence = 1 + 64 + 2 + 56 + 1
    assert seen == [sequence] * 3 + [56]


def test_a_norm_equals_one_that_copies_to_float32_first():
    torch.manual_seed(0)
    norm = RMSNorm(64, 1e-6).bfloat16()
    norm.weight.data.normal_()
    x = (3 * torch.randn(5, 64)).bfloat16()
    copied = (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)).bfloat16() * norm.weight
    torch.testing.assert_close(norm(x), copied, rtol=2**-7, atol=0)
    copied = F.rms_norm(x.float(), (64,), eps=1e-6).bfloat16() * norm.weight
    assert torch.equal(norm(x), copied)
