"""Simulator actors that are killed, hang or raise. The toy simulator fails on scenes with a chosen index."""

import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import ray

import envs
from rllib_vla.env_runners.rollout import play
from rllib_vla.env_runners.simulator_pool import (
    ActorSimulatorPool,
    AllSimulatorsFailedError,
    InProcessSimulatorPool,
    SimulatorError,
)
from tests.rllib_vla.toy import SUITE

pytestmark = pytest.mark.usefixtures("ray_session")
SCENES = [scene for scene in envs.list_scenes(SUITE, "train") if scene.task == "go_left"]


@dataclass
class Trajectory:
    scene: envs.Scene
    cancelled: bool = False
    error: BaseException | None = None
    replies: list = field(default_factory=list)

    def observe(self, reply):
        self.replies.append(reply)

    def fail(self, error):
        self.error = error


def act(waiting):
    return [np.full((8, 7), 0.05, np.float32) for _ in waiting]


@pytest.fixture
def make_pool():
    pools = []

    def make(env_config=None, **kwargs):
        settings = {"num_simulators": 2, "slots_per_simulator": 2, "num_cpus_per_simulator": 0.1} | kwargs
        pools.append(ActorSimulatorPool(SUITE, env_config or {}, **settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def outcomes(pool, scenes):
    supply = [Trajectory(scene) for scene in scenes]
    ended = list(play(pool, supply, act))
    assert len(ended) == len(scenes)
    return supply


def assert_complete(trajectory):
    assert trajectory.error is None
    assert trajectory.replies[-1].done
    assert sum(reply.num_control_steps for reply in trajectory.replies) <= 24


def test_same_outcome_as_in_this_process(make_pool):
    remote = outcomes(make_pool(), SCENES)
    local = outcomes(InProcessSimulatorPool(SUITE, {}, slots_per_simulator=3), SCENES)
    for a, b in zip(remote, local, strict=True):
        assert_complete(a)
        assert [(r.num_control_steps, r.success) for r in a.replies] == [
            (r.num_control_steps, r.success) for r in b.replies
        ]
        for x, y in zip(a.replies[:-1], b.replies[:-1], strict=True):
            np.testing.assert_array_equal(x.observation["image"], y.observation["image"])


@pytest.mark.parametrize(
    ("fault", "message"), [("raise", "the toy simulator broke"), ("exit", "died|actor"), ("hang", "no answer within")]
)
def test_a_broken_scene_costs_the_trajectories_beside_it(make_pool, fault, message):
    # The first call of a fresh simulator gets extra time, so the hang is found by the second call's own deadline.
    pool = make_pool({"fault": fault, "fault_scene": 3}, timeout_s=4.0, start_timeout_s=60.0)
    supply = outcomes(pool, SCENES)
    failed = [t for t in supply if t.error is not None]
    assert supply[3] in failed
    assert len(failed) <= 2  # at most both slots of one simulator
    assert pool.num_failures == 1
    for trajectory in failed:
        assert isinstance(trajectory.error, SimulatorError)
        assert re.search(message, str(trajectory.error))
    for trajectory in supply:
        if trajectory not in failed:
            assert_complete(trajectory)
    again = outcomes(pool, [SCENES[0]] * 8)  # the restarted simulator works
    assert all(t.error is None for t in again)


def test_a_killed_actor_is_replaced(make_pool):
    pool = make_pool()
    outcomes(pool, SCENES[:2])
    ray.kill(pool._actors[0])
    supply = outcomes(pool, SCENES + SCENES)
    assert pool.num_failures == 1
    assert 1 <= sum(t.error is not None for t in supply) <= 2
    for t in supply:
        if t.error is None:
            assert_complete(t)


@pytest.mark.parametrize("fault", ["raise", "exit"])
def test_nothing_but_failures_stops_with_the_cause(make_pool, fault):
    """Starting a scene succeeds every time; that must not hide that no step ever does."""
    pool = make_pool({"fault": fault, "fault_scene": None}, num_simulators=1, max_consecutive_failures=3)
    with pytest.raises(AllSimulatorsFailedError, match="3 simulator failures in a row"):
        outcomes(pool, SCENES * 4)


def test_few_failures_among_successes_do_not_stop(make_pool):
    pool = make_pool({"fault": "raise", "fault_scene": 0}, max_consecutive_failures=2, num_simulators=1)
    supply = outcomes(pool, [SCENES[i] for i in (0, 1, 2, 3, 0, 1, 2, 3, 0, 4, 5, 1)])
    assert pool.num_failures == 3
    assert sum(t.error is None for t in supply) >= 6


def test_drain_forgets_outstanding_calls(make_pool):
    pool = make_pool()
    player = play(pool, [Trajectory(scene) for scene in SCENES], act)
    next(player)
    player.close()
    assert not pool._in_flight
    assert pool.wait() == []
    assert all(t.error is None for t in outcomes(pool, SCENES))


def test_in_process_pool_survives_a_failure():
    pool = InProcessSimulatorPool(SUITE, {"fault": "raise", "fault_scene": 1}, slots_per_simulator=1)
    supply = outcomes(pool, SCENES)
    assert [t.error is not None for t in supply] == [False, True, False, False, False, False]
    assert pool.num_failures == 1
