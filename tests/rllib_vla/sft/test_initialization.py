import torch

from rllib_vla.sft.initialization import ATTENTION_GAIN, HEAD_ROW_NORM, initialize_for_scratch_training
from tests.rllib_vla.sft.conftest import make_policy


def test_rows_of_neighbouring_bins_are_similar_and_distant_ones_are_not(demonstrations):
    model = make_policy(demonstrations).model
    initialize_for_scratch_training(model)
    first = model.config.first_action_id
    rows = model.language_model.lm_head.weight[first : first + 256].detach()
    torch.testing.assert_close(rows.norm(dim=1), torch.full((256,), HEAD_ROW_NORM))
    similarity = rows @ rows.T
    assert similarity.diagonal(1).min() > 0.8
    assert similarity.diagonal(128).abs().max() < 0.5
    assert (similarity.diagonal(1) > similarity.diagonal(8)[:1].max()).all()


def test_only_action_rows_and_attention_change(demonstrations):
    model, untouched = make_policy(demonstrations).model, make_policy(demonstrations).model.state_dict()
    initialize_for_scratch_training(model)
    state = model.state_dict()
    first = model.config.first_action_id
    head = "language_model.lm_head.weight"
    assert torch.equal(state[head][:first], untouched[head][:first])
    changed = {name for name, value in state.items() if not torch.equal(value, untouched[name])} - {head}
    assert all(name.endswith(("q_proj.weight", "k_proj.weight", "attn.qkv.weight")) for name in changed)
    name = "vision_backbone.featurizer.blocks.0.attn.qkv.weight"
    width = untouched[name].shape[1]
    torch.testing.assert_close(state[name][: 2 * width], ATTENTION_GAIN * untouched[name][: 2 * width])
    assert torch.equal(state[name][2 * width :], untouched[name][2 * width :])
