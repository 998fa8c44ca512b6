"""Counting, ending and snapshots, on a simulator that only counts."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

from envs.base import Scene, TaskInfo
from envs.suite_env import SuiteEnv

SPLITS = {"train": 3, "eval": 2}


class CountingEnv(SuiteEnv):
    """Its state is the sum of all actions; success is a sum of 10."""

    SUITE = "counting"
    TASKS = (TaskInfo("up", 0, "count", 12, SPLITS, "w"), TaskInfo("far", 1, "count on", 30, SPLITS, "w"))
    RESET_OPTIONS = ("scene", "start")

    def __init__(self, **config):
        settings = {"chunk_size": 4, "max_control_steps": None, "task_id": None, "render_mode": None} | config
        super().__init__(action_dim=1, **settings)
        self.total = 0.0

    def _enter(self, scene):
        self.entered = scene

    def _begin(self, options):
        self.total = options.get("start", 0.0)

    def _execute(self, actions):
        for number, (action,) in enumerate(actions, start=1):
            self.total += action
            if self.total >= 10:
                return number, True
        return len(actions), False

    def observe(self):
        return {"total": self.total}

    def _save_simulator(self):
        return self.total

    def _load_simulator(self, state):
        self.total = state


def chunk(*values):
    return np.array(values)[:, None]


def scene(task_id=0, index=0):
    info = CountingEnv.TASKS[task_id]
    return Scene("counting", info.name, task_id, info.instruction, "train", index)


def play(env, value, num_chunks):
    return [env.step(chunk(*[value] * 4)) for _ in range(num_chunks)]


def test_success_ends_the_episode_within_a_chunk():
    env = CountingEnv()
    assert env.reset(options={"scene": scene(), "start": 1.0}) == ({"total": 1.0}, {"scene": scene()})
    *_, (observation, reward, terminated, truncated, info) = play(env, 1.5, 2)
    assert (observation["total"], reward, terminated, truncated) == (10.0, 1.0, True, False)
    assert (info["num_control_steps"], info["success"]) == (2, True)
    assert info["physics_time_s"] >= 0 <= info["render_time_s"]
    with pytest.raises(gym.error.ResetNeeded, match="has ended"):
        env.step(chunk(1.0))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_the_end_is_not_observed_where_nobody_looks(value):
    """Whether it is a failure or a success; all else is the same."""
    outcomes = []
    for observes_end in (True, False):
        env = CountingEnv(max_control_steps=8)
        env.observes_end = observes_end
        env.reset(options={"scene": scene()})
        *before, (observation, *outcome, info) = play(env, value, 2)
        assert [reply[0] for reply in before] == [{"total": 4 * value}]
        assert observation == ({"total": min(8 * value, 10)} if observes_end else {})
        outcomes.append((*outcome, info["num_control_steps"], info["success"], env.total))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(("task_id", "limit", "expected"), [(0, None, 12), (1, None, 30), (1, 6, 6)])
def test_the_limit_cuts_the_last_chunk(task_id, limit, expected):
    env = CountingEnv(max_control_steps=limit)
    env.reset(options={"scene": scene(task_id)})
    assert env.max_control_steps == expected
    replies = play(env, 0.0, -(-expected // 4))
    assert [reply[3] for reply in replies] == [False] * (len(replies) - 1) + [True]
    assert sum(reply[4]["num_control_steps"] for reply in replies) == expected


def test_success_with_the_last_action_is_no_failure():
    env = CountingEnv(max_control_steps=4)
    env.reset(options={"scene": scene()})
    assert play(env, 2.5, 1)[0][1:4] == (1.0, True, False)


def test_a_snapshot_resumes_count_scene_and_state():
    env = CountingEnv(max_control_steps=12)
    env.reset(options={"scene": scene(0, 2)})
    play(env, 0.5, 2)
    saved = pickle.loads(pickle.dumps(env.save_state()))
    assert play(env, 0.5, 1)[0][3]
    env.reset(options={"scene": scene(1)})
    other = CountingEnv(max_control_steps=12)
    for one in (env, other):
        one.load_state(saved)
        assert one.scene == one.entered == scene(0, 2)
        observation, _, _, truncated, _ = one.step(chunk(0.5, 0.5, 0.5, 0.5))
        assert (observation["total"], truncated) == (6.0, True)
    ended = env.save_state()
    other.load_state(ended)
    with pytest.raises(gym.error.ResetNeeded):
        other.step(chunk(0.0))


def test_recorders_go_on_after_success():
    env = CountingEnv()
    env.reset(options={"scene": scene(), "start": 9.5})
    assert env.step(chunk(1.0))[2]
    assert env.step_beyond_success([-1.0]) == ({"total": 9.5}, False)
    assert env.step_beyond_success([1.0]) == ({"total": 10.5}, True)


def test_scenes_are_drawn_and_checked():
    env = CountingEnv(task_id=1)
    drawn = {env.reset(seed=seed)[1]["scene"] for seed in range(30)}
    assert drawn == {scene(1, index) for index in range(3)}
    for options, message in (
        ({"scene": scene(0, 3)}, r"initial states 0\.\.2"),
        ({"scane": scene()}, "did you mean 'scene'"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
    env.close()
    with pytest.raises(gym.error.ResetNeeded, match="no episode to save"):
        env.save_state()
    with pytest.raises(gym.error.ResetNeeded, match="no scene yet"):
        _ = env.max_control_steps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
        ({"max_control_steps": 2.5}, "max_control_steps must be an integer"),
        ({"task_id": 2}, r"task_id must be one of 0\.\.1"),
        ({"render_mode": "human"}, "unknown render mode"),
    ],
)
def test_bad_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        CountingEnv(**config)
