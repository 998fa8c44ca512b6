"""The contract checker passes the suites that work and names what is wrong with broken ones."""

import copy
import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from envs.contract import check_suite
from tests import toy_suite


class NotDeterministic(toy_suite.ToyEnv):
    """Starts anywhere."""

    def reset(self, **kwargs):
        super().reset(**kwargs)
        self._current.dot = np.random.default_rng().uniform(-0.2, 0.2, 2)
        return self._observe(), {"scene": self._current.scene}


class ForgetsTheSteps(toy_suite.ToyEnv):
    """Its snapshots share the state."""

    def save_state(self):
        return {"dot": self._current.dot, "scene": self._current.scene}

    def load_state(self, snapshot):
        self._current = toy_suite._State(snapshot["scene"], np.random.default_rng().uniform(-0.2, 0.2, 2), np.ones(2))


class ForgetsAlways(toy_suite.ToyEnv):
    """Goes on from a snapshot where the episode began, every time."""

    def load_state(self, snapshot):
        self.reset(options={"scene": snapshot.scene})


class NeverEnds(toy_suite.ToyEnv):
    """Ignores its step limit and rewards what is no success."""

    def step(self, action):
        observation, _, _, _, info = super().step(action)
        return observation, 1.0, False, False, info | {"success": False}


class TakesAnything(toy_suite.ToyEnv):
    """Does not look at its actions."""

    def _check_chunk(self, chunk):
        return np.zeros((8, 7))


class SameStates(toy_suite.ToyEnv):
    """Evaluates on the training states."""

    def reset(self, *, seed=None, options=None):
        train = dataclasses.replace(options["scene"], split="train")
        super().reset(options={"scene": train})
        self._current.scene = options["scene"]
        return self._observe(), {"scene": options["scene"]}


class Rewords(toy_suite.ToyEnv):
    """Says it in other words, by the scene."""

    def _observe(self):
        words = ("move", "drive")[self._current.scene.index % 2]
        return super()._observe() | {"instruction": f"{words} {self._current.scene.task.replace('_', ' ')}"}


class SpacesWithoutShape(toy_suite.ToyEnv):
    """Declares the frame as a text and the action as a dict."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Dict({**self.observation_space, "image": gym.spaces.Text(9)})
        self.action_space = gym.spaces.Dict({"arm": self.action_space})


@pytest.fixture
def broken(monkeypatch):
    """Returns the problems of the toy suite with another environment class, or with another record."""

    def problems(env=None, **changes):
        if env is not None:
            changes["env_class"] = f"{__name__}:{env.__name__}"
        suite = dataclasses.replace(toy_suite.SUITE, **changes)
        monkeypatch.setattr(toy_suite, "SUITE", suite)
        return check_suite("tests.toy_suite:SUITE")

    return problems


def test_toy_suite_keeps_the_contract():
    assert check_suite("tests.toy_suite:SUITE", tolerance=0.4) == []


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (NotDeterministic, "the same scene gives another observation"),
        (ForgetsTheSteps, "continued from a snapshot goes on otherwise"),
        (ForgetsAlways, "continued from a snapshot goes on otherwise"),
        (NeverEnds, "must mean the same"),
        (TakesAnything, "a NaN must raise ValueError"),
        (SameStates, "held-out scene go_left 0 starts like training scene go_left 0"),
    ],
)
def test_broken_environments_are_named(broken, env, message):
    assert any(message in problem for problem in broken(env)), broken(env)


def test_spaces_without_a_shape_are_named(broken):
    found = "\n".join(broken(SpacesWithoutShape))
    assert "observation_space['image'] must be uint8 [H, W, 3]" in found
    assert "action_space must be float32" in found


def test_broken_tables_are_named(broken, monkeypatch):
    assert "Suite.name is 'toy'" in broken(name="toy")[0]
    tasks = copy.deepcopy(toy_suite.TASKS)
    monkeypatch.setattr(toy_suite, "TASKS", [tasks[1], dataclasses.replace(tasks[0], num_scenes={"train": 6})])
    found = broken()
    assert any("has task_id 1, its position in the list is 0" in problem for problem in found)
    assert any("'go_left' has no scenes in split 'eval'" in problem for problem in found)


def test_other_wordings_are_told_by_the_task_table(broken, monkeypatch):
    assert "instruction of go_left 0 is 'move go left', which its TaskInfo does not have" in broken(Rewords)[0]
    assert broken(prompt_length=20) == []  # instructions that are made from the scene are in no table
    tasks = [
        dataclasses.replace(
            task, wordings=tuple(f"{words} {task.name.replace('_', ' ')}" for words in ("move", "drive"))
        )
        for task in toy_suite.TASKS
    ]
    monkeypatch.setattr(toy_suite, "TASKS", tasks)
    assert broken(prompt_length=0) == []


def test_snapshots_are_not_asked_of_a_suite_that_has_none():
    assert check_suite(toy_suite.FLEETING_SUITE.name) == []
