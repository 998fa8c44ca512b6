"""Answers and failures that arrive together, or late. Ray and the clock are replaced.

Futures are keys of a dict with what comes of them.
"""

import threading
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from envs.robotwin.real.process import SimulatorHungError
from rllib_vla.env_runners import simulator_pool
from rllib_vla.env_runners.simulator import Reply
from rllib_vla.env_runners.simulator_pool import (
    TIMEOUT_S,
    TIMEOUT_WITHOUT_SNAPSHOTS_S,
    ActorSimulatorPool,
    AllSimulatorsFailedError,
    InProcessSimulatorPool,
)
from tests.rllib_vla.toy import SUITE
from tests.toy_suite import FLEETING_SUITE

GOES_ON, DONE = Reply({}, False, False, 8, 0.0), Reply(None, True, True, 3, 0.0)


class Actor:
    """A simulator whose calls end as the test says."""

    def __init__(self, futures):
        self._futures = futures
        self.execute = self

    def remote(self, requests, record_frames):
        future = f"future {len(self._futures)}"
        self._futures[future] = requests
        return future


@pytest.fixture
def futures(monkeypatch):
    futures = {}

    def get(future):
        if isinstance(futures[future], Exception):
            raise futures[future]
        return futures[future]

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda refs, **kwargs: (refs, []))
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    return futures


@pytest.fixture
def make_pool(futures, monkeypatch):
    monkeypatch.setattr(simulator_pool.ray, "remote", lambda **kwargs: lambda cls: Factory(futures))
    return lambda suite=SUITE, **config: ActorSimulatorPool(
        suite, {}, **{"num_simulators": 2, "slots_per_simulator": 2} | config
    )


@pytest.fixture
def pool(make_pool):
    return make_pool()


@pytest.fixture
def answer_after(futures, monkeypatch):
    """Returns a function: what all calls under way answer, and after how many seconds from now."""
    now, ready_at = [0.0], {}

    def wait(refs, *, num_returns, timeout):
        now[0] += timeout
        return [ref for ref in refs if ready_at.get(ref, float("inf")) <= now[0]], []

    def answer(seconds, replies):
        for future in [future for future in futures if future not in ready_at]:
            futures[future], ready_at[future] = replies, now[0] + seconds

    monkeypatch.setattr(simulator_pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray, "wait", wait)
    return answer


class Factory:
    """What `ray.remote(...)(Simulator)` returns."""

    def __init__(self, futures):
        self._futures = futures

    def options(self, **kwargs):
        return self

    def remote(self, *args):
        return Actor(self._futures)


def lanes_of(pool, simulator=0):
    return [lane for lane in pool.lanes if lane.simulator_index == simulator]


@pytest.mark.parametrize("failing_first", [False, True])
def test_a_lane_whose_simulator_was_restarted_beside_it_fails_too(pool, futures, failing_first):
    """Its trajectory lives in the old process; a chunk sent to the new one would fail and count as another failure."""
    lanes, other = lanes_of(pool), lanes_of(pool, simulator=1)[0]
    for lane in (*lanes, other):
        pool.submit(lane, ["request"])
    answers = [RuntimeError("it broke"), [GOES_ON]] if failing_first else [[GOES_ON], RuntimeError("it broke")]
    futures.update(zip(futures, [*answers, [GOES_ON]], strict=True))
    outcomes = {outcome.lane: outcome for outcome in pool.wait()}
    assert all("it broke" in str(outcomes[lane].error) for lane in lanes)
    assert outcomes[other].error is None
    assert pool.num_failures == 1


def test_a_trajectory_that_has_ended_is_not_lost(pool, futures):
    lanes = lanes_of(pool)
    for lane in lanes:
        pool.submit(lane, ["request"])
    futures.update(zip(futures, [[DONE], RuntimeError("it broke")], strict=True))
    outcomes = {outcome.lane: outcome for outcome in pool.wait()}
    assert outcomes[lanes[0]].replies == [DONE]
    assert outcomes[lanes[1]].error is not None


def test_a_lane_that_is_used_later_has_time_to_start(make_pool, answer_after):
    """Without snapshots it starts a process of its own; so it has after the restart of its simulator."""
    pool = make_pool(timeout_s=60.0, start_timeout_s=300.0)
    first, second = lanes_of(pool)

    def ask(lane, seconds):
        pool.submit(lane, ["request"])
        answer_after(seconds, [GOES_ON])
        return pool.wait()[0].error

    assert ask(first, 350) is None
    assert ask(second, 350) is None
    assert ask(first, 50) is None
    assert "no answer within simulator_timeout_s=60" in str(ask(second, 70))
    assert ask(second, 350) is None
    assert ask(first, 350) is None


def test_a_call_has_its_time_from_when_the_one_before_it_was_answered(make_pool, answer_after):
    pool = make_pool(timeout_s=60.0, start_timeout_s=300.0)
    first, second = lanes_of(pool)
    for lane in (first, second):
        pool.submit(lane, ["request"])
        answer_after(1, [GOES_ON])
    assert {outcome.lane for outcome in pool.wait()} == {first, second}
    for lane, seconds in ((first, 50), (second, 100)):
        pool.submit(lane, ["request"])
        answer_after(seconds, [GOES_ON])
    outcomes = [*pool.wait(), *pool.wait()]
    assert [(outcome.lane, outcome.error) for outcome in outcomes] == [(first, None), (second, None)]
    for lane in (first, second):
        pool.submit(lane, ["request"])
    answer_after(70, [GOES_ON])
    assert all(outcome.error is not None for outcome in pool.wait())


def test_suites_without_snapshots_have_more_time(make_pool, answer_after):
    for suite, limit in ((SUITE, TIMEOUT_S), (FLEETING_SUITE.name, TIMEOUT_WITHOUT_SNAPSHOTS_S)):
        pool = make_pool(suite, start_timeout_s=0.0)
        for seconds, is_lost in ((limit - 1, False), (limit + 1, True)):
            pool.submit(lanes_of(pool)[0], ["request"])
            answer_after(seconds, [GOES_ON])
            assert (pool.wait()[0].error is not None) == is_lost


HUNG = SimulatorHungError(
    "'step' took longer than 120 s; the process was killed\nIts standard error ends with:\n  File \"main.py\", line 9"
)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            RayTaskError("execute", "Traceback ...\nSimulatorHungError: ...", HUNG).as_instanceof_cause(),
            "SimulatorHungError: 'step' took longer than 120 s; the process was killed",
        ),
        (RayTaskError("execute", "...\nValueError: a NaN", ValueError("a NaN")), "ValueError: a NaN"),
        (RayTaskError("execute", "...\nError: x", ValueError(threading.Lock())), "Error: x"),  # cannot be pickled
        (ActorDiedError(), "The actor died unexpectedly before finishing this task."),
        (KeyError(), "KeyError()"),
    ],
)
def test_the_cause_is_told_in_one_line(make_pool, futures, error, cause):
    pool = make_pool(max_consecutive_failures=2)
    pool.submit(pool.lanes[0], ["request"])
    futures.update(dict.fromkeys(futures, error))
    assert str(pool.wait()[0].error) == f"simulator 0 failed: {cause}"
    pool.submit(pool.lanes[0], ["request"])
    futures.update(dict.fromkeys(futures, error))
    with pytest.raises(AllSimulatorsFailedError) as failure:
        pool.wait()
    assert str(failure.value).endswith(f"The last one: {cause}")


def test_a_simulator_in_this_process_tells_the_same(monkeypatch):
    pool = InProcessSimulatorPool(SUITE, {}, max_consecutive_failures=2)
    (lane,) = pool.lanes

    def submit():
        monkeypatch.setattr(pool._simulator, "execute", lambda *_: (_ for _ in ()).throw(HUNG))
        pool.submit(lane, [])

    submit()
    sentence = "SimulatorHungError: 'step' took longer than 120 s; the process was killed"
    assert str(pool.wait()[0].error) == f"the simulator raised {sentence}"
    with pytest.raises(AllSimulatorsFailedError) as failure:
        submit()
    assert str(failure.value).endswith(f"The last one: {sentence}")
