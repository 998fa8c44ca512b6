import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_vla import metrics as names
from rllib_vla.columns import TOKEN_MASK
from rllib_vla.env_runners.scene_sampler import SceneSampler
from rllib_vla.env_runners.simulator_pool import AllSimulatorsFailedError
from tests.rllib_vla.toy import SUITE, make_runner, requests, toy_config
from tests.toy_suite import FAR_SUITE, FAR_TASKS, FLEETING_SUITE, TASKS


@pytest.fixture(scope="module")
def runner(toy_policy_dir):
    return make_runner(toy_config(toy_policy_dir, dynamic_sampling=False))


@pytest.mark.parametrize("shape", [(8, 2), (4, 7)])
def test_policy_of_another_suite_is_refused(toy_policy_dir, monkeypatch, shape):
    config = toy_config(toy_policy_dir)
    observation, _ = config.get_environment_spaces()
    actions = gym.spaces.Box(-1, 1, shape, np.float32)
    monkeypatch.setattr(type(config), "get_environment_spaces", lambda self: (observation, actions))
    with pytest.raises(ValueError, match=f"8 actions of 7 dimensions, .* at most {shape[0]} of {shape[1]}"):
        make_runner(config)


def assert_same_groups(a, b):
    assert [g.request for g in a] == [g.request for g in b]
    for x, y in zip(a, b, strict=True):
        for e, f in zip(x.episodes, y.episodes, strict=True):
            assert e.custom_data == f.custom_data
            np.testing.assert_array_equal(e.get_actions(), f.get_actions())
            for key in (Columns.ACTION_LOGP, Columns.ADVANTAGES):
                np.testing.assert_allclose(e.get_extra_model_outputs(key), f.get_extra_model_outputs(key), atol=1e-5)


@pytest.mark.parametrize("num_slots", [1, 3, 64])
def test_slots_do_not_matter(toy_policy_dir, runner, num_slots):
    config = toy_config(toy_policy_dir, dynamic_sampling=False).env_runners(num_envs_per_simulator=num_slots)
    assert_same_groups(make_runner(config).sample_groups(requests(3)), runner.sample_groups(requests(3)))


def test_company_does_not_matter(runner):
    """A group is the same whichever other groups are played beside it."""
    together = runner.sample_groups(requests(4))
    alone = [runner.sample_groups(requests(1, first=i))[0] for i in range(4)]
    assert_same_groups(together, alone)


def test_snapshots_do_not_matter(toy_policy_dir, runner):
    """A suite without snapshots plays the same groups, on one environment per slot."""
    config = toy_config(toy_policy_dir, dynamic_sampling=False).environment(FLEETING_SUITE.name)
    fleeting = make_runner(config.env_runners(num_envs_per_simulator=2))
    ours = [dataclasses.replace(r, scene=dataclasses.replace(r.scene, suite=FLEETING_SUITE.name)) for r in requests(2)]
    for theirs, mine in zip(runner.sample_groups(requests(2)), fleeting.sample_groups(ours), strict=True):
        for e, f in zip(theirs.episodes, mine.episodes, strict=True):
            np.testing.assert_array_equal(e.get_actions(), f.get_actions())
            assert e.custom_data["num_control_steps"] == f.custom_data["num_control_steps"]


def test_one_experiment_draws_from_several_suites(toy_policy_dir):
    config = toy_config(toy_policy_dir, dynamic_sampling=False).environment(f"{SUITE}+{FAR_SUITE.name}")
    runner = make_runner(config)
    sampler = SceneSampler(config.get_training_scenes(), group_size=2, seed=0)
    drawn = sampler.draw(len(config.get_training_scenes()))
    groups = runner.sample_groups(drawn[:6])
    assert {group.request.scene.suite for group in groups} == {SUITE, FAR_SUITE.name}
    assert {request.scene.task for request in drawn} == {"go_left", "go_right", "go_far_left", "go_far_right"}
    for group in groups:
        tasks = TASKS if group.request.scene.suite == SUITE else FAR_TASKS
        limit = tasks[group.request.scene.task_id].max_control_steps
        assert all(0 < e.custom_data["num_control_steps"] <= limit for e in group.episodes)
    measured = runner.get_metrics()[names.TASK_SUCCESS_RATE]
    assert set(measured) == {group.request.scene.task for group in groups}


def test_seed_matters(runner):
    a, b = (runner.sample_groups(requests(1, seed=seed))[0].episodes[0] for seed in (0, 1))
    assert not np.array_equal(a.get_actions(0), b.get_actions(0))


def test_members_start_alike_and_differ_by_their_noise(runner):
    (group,) = runner.sample_groups(requests(1, size=6))
    first, *others = group.episodes
    assert [e.custom_data["member"] for e in group.episodes] == list(range(6))
    for other in others:
        np.testing.assert_array_equal(first.get_observations(0)["images"], other.get_observations(0)["images"])
        assert not np.array_equal(first.get_actions(0), other.get_actions(0))


def test_mask_ends_in_the_middle_of_the_last_chunk(runner):
    episodes = [e for g in runner.sample_groups(requests(12)) for e in g.episodes]
    for episode in episodes:
        mask = np.asarray(episode.get_extra_model_outputs(TOKEN_MASK))
        num_steps = episode.custom_data["num_control_steps"]
        flat = mask.reshape(-1)
        np.testing.assert_array_equal(flat, np.arange(len(flat)) < num_steps * 7)
        assert episode.is_terminated == episode.custom_data["success"] != episode.is_truncated
        assert episode.get_return() == float(episode.custom_data["success"])
        assert episode.custom_data["success"] or num_steps == 24
    assert any(e.custom_data["success"] and e.custom_data["num_control_steps"] % 8 for e in episodes)


def test_filter_and_advantages_run_on_whole_groups(toy_policy_dir, runner):
    everything = runner.sample_groups(requests(12))
    filtered = make_runner(toy_config(toy_policy_dir)).sample_groups(requests(12))
    wins = {g.request.group_id: sum(e.custom_data["success"] for e in g.episodes) for g in everything}
    assert [g.request.group_id for g in filtered] == [i for i, k in wins.items() if 1 <= k <= 3]
    assert 0 < len(filtered) < 12
    for group in filtered:
        values = [e.get_extra_model_outputs(Columns.ADVANTAGES) for e in group.episodes]
        assert all(
            (np.asarray(v) > 0).all() == e.custom_data["success"] for v, e in zip(values, group.episodes, strict=True)
        )
        assert abs(sum(v[0] for v in values)) < 1e-5


def test_metrics_count_before_filtering(toy_policy_dir, runner):
    groups = runner.sample_groups(requests(12))
    filtering = make_runner(toy_config(toy_policy_dir))
    filtering.sample_groups(requests(12))
    metrics = MetricsLogger.peek_results(filtering.get_metrics())
    wins = [sum(e.custom_data["success"] for e in g.episodes) for g in groups]
    assert metrics[names.SUCCESS_RATE] == pytest.approx(sum(wins) / 48)
    assert metrics[names.NUM_TRAJECTORIES] == 48
    assert metrics[names.SHARE_MIXED_GROUPS] == pytest.approx(np.mean([0 < k < 4 for k in wins]))
    assert metrics[names.SHARE_ALL_FAIL_GROUPS] == pytest.approx(np.mean([k == 0 for k in wins]))
    assert metrics[names.TRAJECTORY_LENGTH] == pytest.approx(
        np.mean([e.custom_data["num_control_steps"] for g in groups for e in g.episodes])
    )
    assert set(metrics[names.TASK_SUCCESS_RATE]) == {"go_left", "go_right"}


def test_a_broken_scene_costs_its_group(toy_policy_dir):
    config = toy_config(toy_policy_dir, dynamic_sampling=False)
    config.environment(SUITE, env_config={"fault": "raise", "fault_scene": 2})
    config.env_runners(num_envs_per_simulator=4)
    broken = make_runner(config)
    groups = broken.sample_groups(requests(5))
    metrics = MetricsLogger.peek_results(broken.get_metrics())
    lost = {0, 1, 2, 3, 4} - {g.request.group_id for g in groups}
    assert {2} <= lost <= {1, 2, 3}  # a neighbour may have had a member in the same simulator at the time
    assert all(len(g.episodes) == 4 for g in groups)
    assert metrics[names.NUM_GROUPS_LOST] == len(lost)
    assert metrics[names.NUM_SIMULATOR_FAILURES] >= 1
    assert metrics[names.NUM_GROUPS] == len(groups)


def test_members_of_a_lost_group_are_not_started(toy_policy_dir, monkeypatch):
    config = toy_config(toy_policy_dir).env_runners(num_envs_per_simulator=1)
    runner = make_runner(config.environment(SUITE, env_config={"fault": "raise", "fault_scene": 0}))
    submit, starts = runner.pool.submit, []

    def counting_submit(lane, requests, record_frames=False):
        starts.extend(request for request in requests if request.scene is not None)
        submit(lane, requests, record_frames)

    monkeypatch.setattr(runner.pool, "submit", counting_submit)
    assert runner.sample_groups(requests(1, size=4)) == []
    assert len(starts) == 1
    assert MetricsLogger.peek_results(runner.get_metrics())[names.NUM_SIMULATOR_FAILURES] == 1


def test_nothing_but_failures_stops(toy_policy_dir):
    config = toy_config(toy_policy_dir).env_runners(max_consecutive_simulator_failures=3)
    config.environment(SUITE, env_config={"fault": "raise", "fault_scene": None})
    with pytest.raises(AllSimulatorsFailedError, match="the toy simulator broke"):
        make_runner(config).sample_groups(requests(12))


def test_evaluation_is_greedy_and_yields_everything(runner):
    members = list(runner.evaluate_scenes(requests(3, size=2), record_frames=True))
    assert len(members) == 6
    by_group = {}
    for member in members:
        by_group.setdefault(member.request.group_id, []).append(member)
        assert len(member.frames) == member.num_model_calls + 1
    for a, b in by_group.values():  # greedy: both members of a group do the same
        np.testing.assert_array_equal(a.episode.get_actions(), b.episode.get_actions())


def test_rllib_sample_interface(runner):
    episodes = runner.sample(num_episodes=3, explore=False)
    assert len(episodes) == 3
    assert all(e.is_done for e in episodes)
    with pytest.raises(ValueError, match="num_episodes"):
        runner.sample(num_timesteps=10)


# --- state ------------------------------------------------------------------------------------------------------------


def zeroed(state):
    return {name: np.zeros_like(array) for name, array in state.items()}


def weights(runner):
    return {k: v.copy() for k, v in runner.module.get_state().items()}


def test_weights_version_travels_with_the_groups(toy_policy_dir):
    runner = make_runner(toy_config(toy_policy_dir, dynamic_sampling=False))
    runner.set_state({COMPONENT_RL_MODULE: weights(runner), WEIGHTS_SEQ_NO: 7})
    (group,) = runner.sample_groups(requests(1))
    assert group.weights_seq_no == 7
    assert all(e.custom_data["weights_seq_no"] == 7 for e in group.episodes)


@pytest.mark.parametrize("new_seq_no", [0, 3, 9])
def test_older_and_newer_weights_are_taken_over(toy_policy_dir, new_seq_no):
    runner = make_runner(toy_config(toy_policy_dir))
    runner.set_state({COMPONENT_RL_MODULE: weights(runner), WEIGHTS_SEQ_NO: 5})
    runner.set_state({COMPONENT_RL_MODULE: zeroed(weights(runner)), WEIGHTS_SEQ_NO: new_seq_no})
    assert runner.weights_seq_no == new_seq_no
    assert all(not w.any() for w in weights(runner).values())


def test_state_round_trip(toy_policy_dir):
    a, b = (make_runner(toy_config(toy_policy_dir)) for _ in range(2))
    changed = {k: v + 1 for k, v in weights(a).items()}
    a.set_state({COMPONENT_RL_MODULE: changed, WEIGHTS_SEQ_NO: 4})
    a.sample_groups(requests(1))
    b.set_state(a.get_state())
    assert b.weights_seq_no == 4
    assert b.num_env_steps_sampled_lifetime == a.num_env_steps_sampled_lifetime > 0
    for name, value in weights(b).items():
        np.testing.assert_array_equal(value, changed[name])
