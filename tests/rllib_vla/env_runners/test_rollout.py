"""The engine on a fake pool: trajectories of known lengths, lanes that answer in a chosen order."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from rllib_vla.env_runners.rollout import play
from rllib_vla.env_runners.simulator import Reply
from rllib_vla.env_runners.simulator_pool import Completed, SimulatorError, make_lanes


@dataclass
class FakeTrajectory:
    """Needs `length` chunks; its chunks are its own number."""

    scene: int
    length: int
    cancelled: bool = False
    error: BaseException | None = None
    observed: list = field(default_factory=list)

    def observe(self, reply):
        self.observed.append(reply.observation)

    def fail(self, error):
        self.error = error


class FakePool:
    """Answers outstanding calls in random order; checks that slots are used as they should be."""

    def __init__(self, lengths, num_simulators=2, slots=3, lanes=2, seed=0, fail_on=None):
        self.lanes = make_lanes(num_simulators, slots, lanes)
        self._lengths = lengths
        self._random = random.Random(seed)
        self._fail_on = fail_on  # (scene, call): the lane fails there
        self._outstanding = {}
        self._playing = {}  # (lane, slot) -> [scene, calls so far]
        self.starts = []
        self.max_playing = 0
        self.was_drained = False

    def submit(self, lane, requests, record_frames=False):
        assert lane not in self._outstanding
        assert len({r.slot for r in requests}) == len(requests) > 0
        assert {r.slot for r in requests} <= set(lane.slots)
        self._outstanding[lane] = requests
        for request in requests:
            key = (id(lane), request.slot)
            if request.scene is not None:
                self.starts.append(request.scene)
                self._playing[key] = [request.scene, 0]
            else:
                assert self._playing[key][0] == int(request.chunk[0])  # the chunk reached its own trajectory
                self._playing[key][1] += 1
        self.max_playing = max(self.max_playing, len(self._playing))

    def wait(self):
        lane = self._random.choice(list(self._outstanding))
        requests = self._outstanding.pop(lane)
        keys = [(id(lane), r.slot) for r in requests]
        if any(tuple(self._playing[key]) == self._fail_on for key in keys):
            for key in keys:
                del self._playing[key]
            return [Completed(lane, error=SimulatorError("broken"))]
        replies = []
        for key in keys:
            scene, calls = self._playing[key]
            done = calls >= self._lengths[scene]
            if done:
                del self._playing[key]
            replies.append(Reply((scene, calls), done, done, int(calls > 0), 0.0))
        return [Completed(lane, replies)]

    def drain(self):
        self._outstanding.clear()
        self.was_drained = True


def act(waiting):
    return [np.array([t.scene]) for t in waiting]


def trajectories(lengths):
    return [FakeTrajectory(i, length) for i, length in enumerate(lengths)]


LENGTHS = [3, 1, 5, 2, 2, 7, 1, 4, 3, 6, 1, 1, 2, 5, 3, 2, 4]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_simulators", "slots", "lanes"), [(1, 1, 1), (2, 3, 2), (3, 8, 2), (1, 4, 8)])
def test_everything_is_played_once_to_its_end(num_simulators, slots, lanes, seed):
    supply = trajectories(LENGTHS)
    pool = FakePool(LENGTHS, num_simulators, slots, lanes, seed)
    ended = list(play(pool, supply, act))
    assert sorted(t.scene for t in ended) == list(range(len(LENGTHS)))
    assert sorted(pool.starts) == list(range(len(LENGTHS)))
    for t in supply:
        assert t.observed == [(t.scene, call) for call in range(t.length + 1)]
        assert t.error is None


def test_free_slots_are_refilled_at_once():
    pool = FakePool(LENGTHS, num_simulators=1, slots=4, lanes=1)
    sizes = []

    def recording_act(waiting):
        sizes.append(len(waiting))
        return act(waiting)

    list(play(pool, trajectories(LENGTHS), recording_act))
    assert pool.max_playing == 4
    # With a full pool a slot pauses only for the call that starts its next trajectory.
    num_starts_after_the_first = len(LENGTHS) - 4
    lost_at_the_end = 4 * max(LENGTHS)
    assert len(sizes) * 4 - sum(LENGTHS) <= num_starts_after_the_first + lost_at_the_end
    assert len(sizes) < sum(LENGTHS) / 2


def test_few_trajectories_are_spread_over_the_simulators():
    pool = FakePool([1] * 4, num_simulators=4, slots=8, lanes=2)
    used = []
    submit = pool.submit
    pool.submit = lambda lane, requests, record: (used.append(lane.simulator_index), submit(lane, requests, record))
    list(play(pool, trajectories([1] * 4), act))
    assert set(used) == {0, 1, 2, 3}


def test_cancelled_trajectories_stop():
    supply = trajectories([50] * 6)
    pool = FakePool([50] * 6, num_simulators=1, slots=6, lanes=1)

    def cancelling_act(waiting):
        if len(waiting[0].observed) == 3:
            for t in supply[:4]:
                t.cancelled = True
        return act(waiting)

    ended = list(play(pool, supply, cancelling_act))
    assert {t.scene for t in ended} == set(range(6))
    assert [len(t.observed) for t in supply] == [4] * 4 + [51] * 2


def test_a_failure_costs_its_lane_only():
    lengths = [5] * 8
    supply = trajectories(lengths)
    pool = FakePool(lengths, num_simulators=2, slots=2, lanes=1, fail_on=(1, 2))
    ended = list(play(pool, supply, act))
    assert {t.scene for t in ended} == set(range(8))
    failed = [t.scene for t in supply if t.error is not None]
    assert 1 in failed
    assert len(failed) <= 2  # the trajectories of one lane
    assert all(isinstance(supply[i].error, SimulatorError) for i in failed)
    assert all(len(t.observed) == 6 for t in supply if t.error is None)


def test_outstanding_calls_are_drained_when_the_caller_stops():
    pool = FakePool(LENGTHS)
    player = play(pool, trajectories(LENGTHS), act)
    next(player)
    player.close()
    assert pool.was_drained


def test_nothing_to_play():
    assert list(play(FakePool([]), [], act)) == []


def test_lanes_cover_every_slot_once():
    lanes = make_lanes(3, 5, 2)
    slots = [(lane.simulator_index, slot) for lane in lanes for slot in lane.slots]
    assert sorted(slots) == [(s, slot) for s in range(3) for slot in range(5)]
    assert max(len(lane.slots) for lane in lanes) - min(len(lane.slots) for lane in lanes) <= 1
    assert len(make_lanes(2, 1, 2)) == 2  # no empty lanes
