"""The whole objective against a second implementation, written from the paper's formulas, on ragged episodes."""

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_vla import metrics as names
from rllib_vla.columns import TOKEN_MASK
from tests.rllib_vla.toy import episodes_of, learner_results, make_learner, toy_config


def objective(model, groups, *, temperature, low=0.2, high=0.28, token_mean=False):
    """mean_i 1/|o_i| sum_t max(-A_i r_it, -A_i clip(r_it, 1 - low, 1 + high)), trajectory by trajectory."""
    terms, lengths = [], []
    for group in groups:
        success = np.array([float(e.custom_data["success"]) for e in group.episodes])
        advantages = (success - success.mean()) / (success.std(ddof=1) + 2e-7)
        for episode, advantage in zip(group.episodes, advantages, strict=True):
            total, count = 0.0, 0
            steps_left = episode.custom_data["num_control_steps"]
            for call in range(len(episode)):
                observation = episode.get_observations(call)
                length = int(observation["attention_mask"].sum())
                logits = model(
                    torch.from_numpy(observation["images"])[None],
                    torch.from_numpy(observation["input_ids"][:length])[None],
                    torch.ones(1, length, dtype=torch.bool),
                )[0]
                probabilities = torch.softmax(logits.double() / temperature, dim=-1)
                valid = min(8, steps_left) * 7
                steps_left -= min(8, steps_left)
                tokens = episode.get_actions(call)
                old = episode.get_extra_model_outputs(Columns.ACTION_LOGP, call)
                for t in range(valid):
                    ratio = probabilities[t, int(tokens[t])] / np.exp(float(old[t]))
                    clipped = min(max(float(ratio), 1 - low), 1 + high)
                    surrogate = advantage * ratio
                    if advantage * clipped < float(surrogate):
                        surrogate = torch.tensor(advantage * clipped)
                    total = total - surrogate
                count += valid
            terms.append(total)
            lengths.append(count)
    if token_mean:
        return sum(terms) / sum(lengths)
    return sum(term / length for term, length in zip(terms, lengths, strict=True)) / len(terms)


@pytest.mark.parametrize("aggregation", ["trajectory", "token"])
def test_loss_and_gradient(toy_policy_dir, toy_groups, aggregation):
    groups = toy_groups[:2]
    # Other weights than those that sampled, so that ratios differ from 1 and some tokens are clipped.
    config = toy_config(
        toy_policy_dir, micro_batch_size=5, loss_aggregation=aggregation, weight_decay=0.0, grad_clip=None
    )
    learner = make_learner(config)
    model = learner.module[DEFAULT_MODULE_ID].model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    ours = objective(model, groups, temperature=1.0, token_mean=aggregation == "token")
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(ours, parameters, allow_unused=True)

    taken = {}
    learner.apply_gradients = lambda by_ref: taken.update({r: g.clone() for r, g in by_ref.items()})
    results = learner_results(
        learner, learner.update(episodes=episodes_of(groups), minibatch_size=len(groups) * 4, num_epochs=1)
    )
    assert 0.01 < results[names.CLIP_FRACTION_HIGH] + results[names.CLIP_FRACTION_LOW] < 0.9
    assert results["total_loss"] == pytest.approx(ours.item(), abs=1e-5)
    reference_of = {p: learner.get_param_ref(p) for p in parameters}
    for parameter, expected in zip(parameters, gradients, strict=True):
        if expected is not None:
            got = taken[reference_of[parameter]]
            assert torch.allclose(got, expected, atol=1e-5, rtol=1e-3)


def test_the_second_implementation_masks_as_the_first(toy_groups):
    for group in toy_groups:
        for episode in group.episodes:
            num_valid = int(np.sum(episode.get_extra_model_outputs(TOKEN_MASK)))
            assert num_valid == 7 * episode.custom_data["num_control_steps"]
