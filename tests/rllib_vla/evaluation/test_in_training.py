import math
from types import SimpleNamespace

import pytest

from envs import list_scenes
from rllib_vla.env_runners.group import GroupRequest
from rllib_vla.evaluation import in_training
from rllib_vla.evaluation.in_training import PlayedEpisode, _summarize, evaluate_on_env_runners
from tests.rllib_vla.toy import toy_config
from tests.toy_suite import SUITE


def played(outcomes):
    scenes = {scene.task: scene for scene in list_scenes(SUITE.name, "eval")}
    return [
        PlayedEpisode(GroupRequest(i, scenes[task], 1, 0), success, 10, None)
        for i, (task, success) in enumerate(outcomes)
    ]


def test_unseen_tasks_are_reported_apart():
    episodes = played([("go_left", True), ("go_left", True), ("go_right", True), ("go_right", False)])
    assert _summarize(episodes)["success_rate"] == 0.75
    assert "unseen_success_rate" not in _summarize(episodes)
    result = _summarize(episodes, ["go_right"])
    assert (result["seen_success_rate"], result["unseen_success_rate"], result["success_rate"]) == (1.0, 0.5, 0.75)
    assert math.isnan(_summarize([], ["go_right"])["unseen_success_rate"])


class StandInRunner:
    """Solves every scene with its newest weights, none with others."""

    def __init__(self, worker_index, weights_seq_no):
        self.worker_index, self.weights_seq_no = worker_index, weights_seq_no

    def evaluate_scenes(self, requests, *, record_frames=False):
        for request in requests:
            solved = self.weights_seq_no == 3
            yield SimpleNamespace(request=request, success=solved, num_control_steps=10, frames=None, error=None)


class StandInGroup:
    """What evaluation uses of RLlib's EnvRunnerGroup."""

    def __init__(self, *runners):
        self.runners = runners
        self.timeout_s = "not asked"

    def num_remote_env_runners(self):
        return len(self.runners)

    def healthy_env_runner_ids(self):
        return [runner.worker_index for runner in self.runners]

    def foreach_env_runner(self, func, *, local_env_runner, timeout_seconds):
        assert not local_env_runner
        self.timeout_s = timeout_seconds
        return [func(runner) for runner in self.runners]


def evaluate(policy_dir, group):
    config = toy_config(policy_dir).evaluation(evaluation_num_scenes_per_task=4)
    config.validate()
    algorithm = SimpleNamespace(
        config=config, env_runner_group=group, num_updates=3, logdir=None, ensure_current_weights=lambda: None
    )
    return evaluate_on_env_runners(algorithm)


@pytest.fixture
def warnings(monkeypatch):
    """What is logged as a warning, whatever levels and handlers Ray has set."""
    said = []
    monkeypatch.setattr(in_training.logger, "warning", said.append)
    return said


def test_runners_share_the_scenes_and_may_take_their_time(toy_policy_dir, warnings):
    """RLlib gives an evaluation 120 s by default; a suite of real size takes many minutes."""
    group = StandInGroup(StandInRunner(1, 3), StandInRunner(2, 3))
    result = evaluate(toy_policy_dir, group)
    assert group.timeout_s is None
    assert (result["num_trajectories"], result["success_rate"]) == (8, 1.0)
    assert not warnings


def test_a_runner_that_was_just_restarted_plays_nothing_with_its_initial_weights(toy_policy_dir, warnings):
    result = evaluate(toy_policy_dir, StandInGroup(StandInRunner(1, 3), StandInRunner(2, 0)))
    assert (result["num_trajectories"], result["success_rate"]) == (4, 1.0)
    (warning,) = warnings
    assert "4 of 8 episodes are missing" in warning
