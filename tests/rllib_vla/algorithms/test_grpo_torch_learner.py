from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData

from rllib_vla import metrics as names
from rllib_vla.algorithms.grpo.default_grpo_rl_module import ALL_LOG_PROBS
from rllib_vla.algorithms.grpo.torch import grpo_torch_learner
from rllib_vla.algorithms.grpo.torch.grpo_torch_learner import NonFiniteUpdateError
from rllib_vla.columns import TOKEN_MASK, TOKEN_WEIGHT, TRAJECTORY_INDEX
from rllib_vla.rl_modules.openvla_oft_rl_module import OpenVLAOFTRLModule
from tests.rllib_vla.toy import (
    episodes_of,
    learner_results,
    make_learner,
    make_runner,
    max_difference,
    requests,
    toy_config,
    weights_of,
)


def update(learner, groups, minibatch_size=4, **kwargs):
    results = learner.update(episodes=episodes_of(groups), minibatch_size=minibatch_size, num_epochs=1, **kwargs)
    return learner_results(learner, results)


def train_batch(learner, groups):
    batch = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes_of(groups), shared_data={}, metrics=learner.metrics
    )
    return batch[DEFAULT_MODULE_ID]


def minibatches(learner, groups, **kwargs):
    iterator = learner._create_iterator_if_necessary(
        training_data=TrainingData(episodes=episodes_of(groups)), **({"num_epochs": 1, "minibatch_size": 4} | kwargs)
    )
    return [batch.policy_batches[DEFAULT_MODULE_ID] for batch in iterator]


def log_probs(learner, groups):
    """Log-probability of every sampled token [rows, N] and the batch."""
    batch = train_batch(learner, groups)
    with torch.no_grad():
        out = learner.module.forward_train({DEFAULT_MODULE_ID: batch})[DEFAULT_MODULE_ID][ALL_LOG_PROBS]
    return out.gather(-1, batch[Columns.ACTIONS].long()[..., None])[..., 0], batch


# --- old and new log-probabilities ------------------------------------------------------------------------------------


def test_first_ratio_is_one(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir))
    results = update(learner, toy_groups, minibatch_size=28)
    assert results[names.RATIO_MAX_DEVIATION] < 1e-4
    assert abs(results[names.APPROX_KL]) < 1e-5
    assert results[names.CLIP_FRACTION_LOW] == results[names.CLIP_FRACTION_HIGH] == 0


def test_first_ratio_is_one_with_tokens_decoded_one_after_the_other(autoregressive_toy_policy_dir):
    """Sampled with cached keys and values, trained in one teacher-forced pass."""
    config = toy_config(autoregressive_toy_policy_dir, temperature=1.6, dynamic_sampling=False)
    runner = make_runner(config)
    groups = runner.sample_groups(requests(2))
    runner.stop()
    assert groups[0].episodes[0].get_actions(0).shape == (7,)
    results = update(make_learner(config), groups, minibatch_size=8)
    assert results[names.RATIO_MAX_DEVIATION] < 1e-4
    assert results[names.CLIP_FRACTION_LOW] == results[names.CLIP_FRACTION_HIGH] == 0


def test_first_ratio_is_one_at_the_papers_temperature(toy_policy_dir):
    config = toy_config(toy_policy_dir, temperature=1.6, dynamic_sampling=False)
    runner = make_runner(config)
    groups = runner.sample_groups(requests(2))
    runner.stop()
    results = update(make_learner(config), groups, minibatch_size=8)
    assert results[names.RATIO_MAX_DEVIATION] < 1e-4
    assert results[names.CLIP_FRACTION_LOW] == results[names.CLIP_FRACTION_HIGH] == 0


def test_number_of_parameters_is_reported_with_every_update(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir))
    expected = sum(p.numel() for p in learner.get_parameters(learner.module[DEFAULT_MODULE_ID]))
    assert [update(learner, toy_groups[:1])["num_trainable_parameters"] for _ in range(2)] == [expected] * 2


def test_ratio_would_show_another_temperature(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir, temperature=1.6))
    assert update(learner, toy_groups, minibatch_size=28)[names.RATIO_MAX_DEVIATION] > 1e-2


# --- minibatches ------------------------------------------------------------------------------------------------------


def test_micro_batches_give_the_same_gradient(toy_policy_dir, toy_groups):
    """With SGD-like steps (huge Adam epsilon) parameters agree to 1e-6 for every micro-batch size."""
    steps = []
    for size in (None, 1, 3, 16):
        learner = make_learner(toy_config(toy_policy_dir, micro_batch_size=size, lr=1.0, adam_epsilon=1.0))
        before = weights_of(learner)
        update(learner, toy_groups[:3], minibatch_size=12)
        steps.append(weights_of(learner))
        assert max_difference(before, steps[-1]) > 1e-3
    for step in steps[1:]:
        assert max_difference(steps[0], step) < 1e-6


def test_a_token_budget_gives_the_same_gradient(toy_policy_dir, toy_groups):
    """Rows are sorted, padding is cut off, and yet parameters agree to 1e-6."""
    steps, passes = [], []
    for settings in ({"micro_batch_size": None}, {"micro_batch_tokens": 500}, {"micro_batch_tokens": 1}):
        learner = make_learner(toy_config(toy_policy_dir, lr=1.0, adam_epsilon=1.0, **settings))
        results = update(learner, toy_groups[:3], minibatch_size=12)
        steps.append(weights_of(learner))
        passes.append(results[names.NUM_MICRO_BATCHES])
        if settings.get("micro_batch_tokens") == 500:
            assert 0.7 < results[names.MICRO_BATCH_FILL] <= 1
    num_rows = sum(len(episode) for group in toy_groups[:3] for episode in group.episodes)
    assert passes[0] == 1 < passes[1] < passes[2] == num_rows
    for step in steps[1:]:
        assert max_difference(steps[0], step) < 1e-6


@pytest.mark.parametrize("minibatch_size", [4, 5, 28, None])
def test_every_trajectory_once_per_epoch(toy_policy_dir, toy_groups, minibatch_size):
    learner = make_learner(toy_config(toy_policy_dir))
    num_epochs = 2
    batches = minibatches(
        learner, toy_groups, minibatch_size=minibatch_size, num_epochs=num_epochs, shuffle_batch_per_epoch=True
    )
    size = minibatch_size or 28
    per_epoch = -(-28 // size)
    assert len(batches) == num_epochs * per_epoch
    lengths = [len(episode) for group in toy_groups for episode in group.episodes]
    for epoch in range(num_epochs):
        seen = []
        for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch]:
            trajectories, counts = np.unique(np.asarray(batch[TRAJECTORY_INDEX]), return_counts=True)
            assert len(trajectories) <= size
            assert [lengths[t] for t in trajectories] == counts.tolist()  # never cut apart
            seen += trajectories.tolist()
        assert sorted(seen) == list(range(28))


def test_rows_of_a_minibatch_belong_together(toy_policy_dir, toy_groups):
    """Every column of a shuffled minibatch is the one of the row's own model call."""
    learner = make_learner(toy_config(toy_policy_dir))
    whole = train_batch(learner, toy_groups)
    rows_of = {t: np.flatnonzero(np.asarray(whole[TRAJECTORY_INDEX]) == t) for t in range(28)}
    for batch in minibatches(learner, toy_groups, shuffle_batch_per_epoch=True):
        order = np.concatenate([rows_of[t] for t in dict.fromkeys(np.asarray(batch[TRAJECTORY_INDEX]).tolist())])
        for column in (Columns.ACTIONS, Columns.ACTION_LOGP, Columns.ADVANTAGES, TOKEN_MASK, TOKEN_WEIGHT):
            assert torch.equal(batch[column], whole[column][order]), column
        assert torch.equal(batch[Columns.OBS]["images"], whole[Columns.OBS]["images"][order])


def test_shuffling_is_deterministic(toy_policy_dir, toy_groups):
    def order(**kwargs):
        learner = make_learner(toy_config(toy_policy_dir).debugging(seed=kwargs.pop("seed", 0)))
        batches = minibatches(learner, toy_groups, **({"shuffle_batch_per_epoch": True} | kwargs))
        return [int(t) for batch in batches for t in dict.fromkeys(np.asarray(batch[TRAJECTORY_INDEX]).tolist())]

    assert order() == order()
    assert order() != order(seed=1)
    assert order() != order(shuffle_batch_per_epoch=False)
    assert order(shuffle_batch_per_epoch=False) == list(range(28))
    epochs = order(num_epochs=2)
    assert epochs[:28] != epochs[28:]


def test_unequal_numbers_of_minibatches_are_refused(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir))
    with pytest.raises(RuntimeError, match="7 minibatches instead of 6"):
        minibatches(learner, toy_groups, num_total_minibatches=6)


# --- the step ---------------------------------------------------------------------------------------------------------


def test_successful_tokens_become_likelier(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir, lr=1e-3))
    before, batch = log_probs(learner, toy_groups)
    update(learner, toy_groups, minibatch_size=28)
    after, _ = log_probs(learner, toy_groups)
    mask, advantages = batch[TOKEN_MASK], batch[Columns.ADVANTAGES]
    change = (after - before) * batch[TOKEN_WEIGHT]
    assert (advantages > 0).any()
    assert (advantages < 0).any()
    assert change[advantages > 0].sum() > 0
    assert change[advantages < 0].sum() < 0
    assert mask.any()


def test_masked_tokens_do_not_matter(toy_policy_dir, toy_groups):
    episodes = [episodes_of(toy_groups), episodes_of(toy_groups)]
    num_changed = 0
    for episode in episodes[1]:
        for call in range(len(episode)):
            mask = episode.get_extra_model_outputs(TOKEN_MASK, call)
            tokens = episode.get_actions(call).copy()
            num_changed += int((~mask).sum())
            tokens[~mask] = (tokens[~mask] + 100) % 256
            episode.set_actions(new_data=tokens, at_indices=call)
    assert num_changed > 0
    results = []
    for variant in episodes:
        learner = make_learner(toy_config(toy_policy_dir))
        learner.update(episodes=variant, minibatch_size=28, num_epochs=1)
        results.append(weights_of(learner))
    assert max_difference(*results) == 0


def test_groups_without_contrast_change_nothing(toy_policy_dir, toy_groups):
    flat = [g for g in toy_groups if len({e.custom_data["success"] for e in g.episodes}) == 1]
    assert flat
    learner = make_learner(toy_config(toy_policy_dir, weight_decay=0.0))
    before = weights_of(learner)
    update(learner, flat)
    assert max_difference(before, weights_of(learner)) == 0


def test_optimizer_settings_reach_adamw(toy_policy_dir):
    config = toy_config(toy_policy_dir, weight_decay=0.3, adam_betas=(0.8, 0.95), adam_epsilon=1e-6, lr=2e-4)
    optimizer = make_learner(config).get_optimizer(DEFAULT_MODULE_ID)
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["weight_decay"], group["betas"], group["eps"], group["lr"]) == (0.3, (0.8, 0.95), 1e-6, 2e-4)


def test_gradient_clipping(toy_policy_dir, toy_groups):
    steps = []
    for clip in (1e-6, 1e6):
        learner = make_learner(toy_config(toy_policy_dir, grad_clip=clip, lr=1.0, adam_epsilon=1.0, weight_decay=0.0))
        before = weights_of(learner)
        update(learner, toy_groups, minibatch_size=28)
        steps.append(max_difference(before, weights_of(learner)))
    assert steps[0] < 1e-5 < 1e-3 < steps[1]


# --- non-finite numbers -----------------------------------------------------------------------------------------------


def poison(episodes):
    """Makes the loss infinite: the ratio overflows on a token with negative advantage."""
    for episode in episodes:
        for call in range(len(episode)):
            logp = np.full_like(episode.get_extra_model_outputs(Columns.ACTION_LOGP, call), -1e4)
            episode.set_extra_model_outputs(key=Columns.ACTION_LOGP, new_data=logp, at_indices=call)
    return episodes


def test_non_finite_steps_are_skipped_counted_and_end_the_run(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir, max_consecutive_nonfinite_updates=3))
    before = weights_of(learner)
    for _ in range(2):
        results = learner_results(
            learner, learner.update(episodes=poison(episodes_of(toy_groups)), minibatch_size=28, num_epochs=1)
        )
        assert results[names.NUM_NONFINITE_UPDATES] == 1
    assert max_difference(before, weights_of(learner)) == 0
    assert not learner.get_optimizer(DEFAULT_MODULE_ID).state  # Adam's moments were not touched either
    with pytest.raises(NonFiniteUpdateError, match="3 optimizer steps in a row"):
        learner.update(episodes=poison(episodes_of(toy_groups)), minibatch_size=28, num_epochs=1)


@pytest.mark.parametrize(("rank", "count"), [(0, 1), (1, 0)])
def test_of_several_learners_the_first_counts(toy_policy_dir, toy_groups, monkeypatch, rank, count):
    learner = make_learner(toy_config(toy_policy_dir))
    two_learners = SimpleNamespace(
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        get_rank=lambda: rank,
        all_reduce=lambda tensor, op=None: None,
        ReduceOp=torch.distributed.ReduceOp,
    )
    monkeypatch.setattr(grpo_torch_learner, "dist", two_learners)
    results = learner.update(episodes=poison(episodes_of(toy_groups)), minibatch_size=28, num_epochs=1)
    assert learner_results(learner, results)[names.NUM_NONFINITE_UPDATES] == count


def test_a_finite_step_resets_the_count(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir, max_consecutive_nonfinite_updates=2))
    before = weights_of(learner)
    for _ in range(2):
        learner.update(episodes=poison(episodes_of(toy_groups)), minibatch_size=28, num_epochs=1)
        results = update(learner, toy_groups, minibatch_size=28)
        assert results[names.NUM_NONFINITE_UPDATES] == 0
    assert max_difference(before, weights_of(learner)) > 0


def test_non_finite_gradient_is_skipped(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir))
    before = weights_of(learner)
    parameter = next(p for p in learner.module[DEFAULT_MODULE_ID].parameters() if p.requires_grad and p.numel() > 100)
    handle = parameter.register_hook(lambda gradient: gradient.clone().fill_(float("nan")))
    results = update(learner, toy_groups, minibatch_size=28)
    handle.remove()
    assert results[names.NUM_NONFINITE_UPDATES] == 1
    assert max_difference(before, weights_of(learner)) == 0


# --- KL to the initial policy, entropy --------------------------------------------------------------------------------


def test_kl_reference_stays_fixed(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir, kl_coeff=0.1, lr=1e-2))
    initial = weights_of(learner)
    assert update(learner, toy_groups, minibatch_size=28)[names.KL_TO_REFERENCE] == pytest.approx(0, abs=1e-6)
    assert update(learner, toy_groups, minibatch_size=28)[names.KL_TO_REFERENCE] > 1e-3
    reference = learner._reference[DEFAULT_MODULE_ID].model.state_dict()
    assert max_difference(initial, reference) == 0
    assert max_difference(initial, weights_of(learner)) > 0


def test_kl_pulls_back_to_the_reference(toy_policy_dir, toy_groups):
    results = []
    for coeff in (1e-6, 10.0):
        learner = make_learner(toy_config(toy_policy_dir, kl_coeff=coeff, lr=1e-3))
        for _ in range(4):
            kl = update(learner, toy_groups, minibatch_size=28)[names.KL_TO_REFERENCE]
        results.append(kl)
    assert results[1] < 0.8 * results[0]


def test_no_reference_without_kl(toy_policy_dir, toy_groups):
    learner = make_learner(toy_config(toy_policy_dir))
    assert names.KL_TO_REFERENCE not in update(learner, toy_groups)
    assert learner._reference == {}


def test_entropy_bonus_raises_entropy(toy_policy_dir, toy_groups):
    entropies = []
    for coeff in (0.0, 1.0):
        learner = make_learner(toy_config(toy_policy_dir, entropy_coeff=coeff, lr=1e-3))
        for _ in range(3):
            entropy = update(learner, toy_groups, minibatch_size=28)[names.ENTROPY]
        entropies.append(entropy)
    assert entropies[1] > entropies[0]


# --- trained parts ----------------------------------------------------------------------------------------------------


def test_frozen_parts_stay_as_they_are(toy_policy_dir, toy_groups):
    config = toy_config(toy_policy_dir, weight_decay=0.1)
    model_config = {"model_path": toy_policy_dir, "freeze": ["vision_backbone"]}
    learner = make_learner(config.rl_module(model_config=model_config))
    before = weights_of(learner)
    results = update(learner, toy_groups, minibatch_size=28)
    assert results[names.RATIO_MAX_DEVIATION] < 1e-4
    changed = {name for name, value in weights_of(learner).items() if not torch.equal(value, before[name])}
    assert changed
    assert not any("vision_backbone" in name for name in changed)
    optimizer = learner.get_optimizer(DEFAULT_MODULE_ID)
    trained = [p for p in learner.module[DEFAULT_MODULE_ID].model.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(trained)
    assert OpenVLAOFTRLModule.num_trained_parameters(model_config) >= sum(p.numel() for p in trained)


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_with_lora_only_adapters_are_trained(toy_policy_dir, toy_groups):
    config = toy_config(toy_policy_dir, weight_decay=0.1)
    learner = make_learner(config.rl_module(model_config={"model_path": toy_policy_dir, "lora": {"rank": 4}}))
    before = weights_of(learner)
    results = update(learner, toy_groups, minibatch_size=28)
    assert results[names.RATIO_MAX_DEVIATION] < 1e-4  # the sampler had the plain model
    changed = {name for name, value in weights_of(learner).items() if not torch.equal(value, before[name])}
    module = learner.module[DEFAULT_MODULE_ID]
    assert (
        changed == set(module.get_state()) == {name for name, p in module.model.named_parameters() if p.requires_grad}
    )
    optimizer = learner.get_optimizer(DEFAULT_MODULE_ID)
    num_adapted = sum(array.size for array in module.get_state().values())
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == num_adapted
    assert sum(moments["exp_avg"].numel() for moments in optimizer.state.values()) == num_adapted


# --- state ------------------------------------------------------------------------------------------------------------


def test_an_older_state_comes_back_whole(toy_policy_dir, toy_groups):
    """RLlib's learner takes over newer weights only, and keeps its version number at a state from before any update."""
    learner = make_learner(toy_config(toy_policy_dir))
    saved = []
    for _ in range(3):
        saved.append((learner.get_state(), weights_of(learner)))
        update(learner, toy_groups[:2])
    for version in (1, 0, 2):
        state, weights = saved[version]
        learner.set_state(state)
        assert learner._weights_seq_no == version
        assert max_difference(weights_of(learner), weights) == 0
