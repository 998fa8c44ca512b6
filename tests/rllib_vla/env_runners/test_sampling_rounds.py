"""Requests on their way to environment runners. The runners are stand-ins that answer when the test says so."""

from types import SimpleNamespace

import pytest

from rllib_vla.algorithms.grpo import GRPO, grpo
from rllib_vla.env_runners import sampling_rounds
from rllib_vla.env_runners.sampling_rounds import SamplingRounds
from rllib_vla.logging.iteration_progress import IterationProgress
from tests.rllib_vla.toy import requests


class StandIn:
    """Plays nothing: returns one stored group per request."""

    def __init__(self, index=1, weights_seq_no=0, error=None):
        self.worker_index, self.weights_seq_no, self.error = index, weights_seq_no, error
        self.rebuilt = 0

    def sample_group_refs(self, share, on_group=None):
        if self.error:
            raise self.error
        return [("episodes", request.group_id, self.weights_seq_no, 7) for request in share]

    def get_metrics(self):
        return {"runner": self.worker_index}

    def make_env(self):
        self.rebuilt += 1


class StandInGroup:
    """What `SamplingRounds` uses of RLlib's EnvRunnerGroup; calls are executed when their result is fetched."""

    def __init__(self, *runners, in_flight=1):
        self.runners = {runner.worker_index: runner for runner in runners}
        self.local_env_runner = self.runners.get(0)
        self.healthy = {index for index in self.runners if index}
        self.ready = set(self.healthy)  # runners that have finished what they were asked for
        self.in_flight = in_flight
        self.calls = []

    def num_remote_env_runners(self):
        return sum(index > 0 for index in self.runners)

    def num_healthy_remote_env_runners(self):
        return len(self.healthy)

    def healthy_env_runner_ids(self):
        return sorted(self.healthy)

    def num_in_flight_async_reqs(self, tag):
        return len(self.calls)

    def foreach_env_runner_async(self, func, tag, remote_worker_ids):
        (worker,) = remote_worker_ids
        if sum(w == worker for w, _ in self.calls) >= self.in_flight:
            return 0
        self.calls.append((worker, func))
        return 1

    def fetch_ready_async_reqs(self, *, tags, timeout_seconds):
        done = [call for call in self.calls if call[0] in self.ready]
        self.calls = [call for call in self.calls if call not in done]
        return [(worker, func(self.runners[worker])) for worker, func in done]

    def die(self, worker):
        self.healthy.discard(worker)
        self.calls = [call for call in self.calls if call[0] != worker]


def rounds_of(group, max_staleness=0, timeout_s=None, restore=lambda: None):
    return SamplingRounds(group, max_staleness=max_staleness, timeout_s=timeout_s, restore=restore)


def ids(groups):
    return sorted(group.group_id for group in groups)


def test_a_round_is_dealt_out_and_taken_in():
    group = StandInGroup(StandIn(1), StandIn(2))
    rounds = rounds_of(group)
    assert rounds.start(requests(5), 0) == []
    assert [r.group_id for r in rounds.requests_under_way()] == [0, 1, 2, 3, 4]
    arrived = rounds.wait(for_all=True)
    assert ids(arrived.groups) == [0, 1, 2, 3, 4]
    assert [m["runner"] for m in arrived.metrics] == [1, 2]
    assert not arrived.refused
    assert rounds.requests_under_way() == []


def test_the_first_results_do_not_wait_for_the_others():
    group = StandInGroup(StandIn(1), StandIn(2))
    group.ready = {2}
    rounds = rounds_of(group, max_staleness=1)
    rounds.start(requests(4), 0)
    assert ids(rounds.wait(for_all=False).groups) == [1, 3]
    assert [r.group_id for r in rounds.requests_under_way()] == [0, 2]


def test_a_busy_runner_takes_only_as_many_rounds_as_the_bound_allows():
    group = StandInGroup(StandIn(1), in_flight=2)
    rounds = rounds_of(group, max_staleness=1)
    assert rounds.start(requests(2), 0) == []
    assert rounds.start(requests(2, first=2), 0) == []
    refused = rounds.start(requests(2, first=4), 0)
    assert [r.group_id for r in refused] == [4, 5]


def test_the_least_busy_runner_comes_first():
    group = StandInGroup(StandIn(1), StandIn(2), in_flight=2)
    rounds = rounds_of(group, max_staleness=1)
    rounds.start(requests(1), 0)  # runner 1
    rounds.start(requests(1, first=1), 0)
    assert [worker for worker, _ in group.calls] == [1, 2]


def test_a_runner_with_other_weights_refuses():
    group = StandInGroup(StandIn(1, weights_seq_no=0), StandIn(2, weights_seq_no=3))
    rounds = rounds_of(group)
    rounds.start(requests(2), 3)
    arrived = rounds.wait(for_all=True)
    assert [request.group_id for request in arrived.refused] == [0]
    assert [(g.group_id, g.weights_seq_no) for g in arrived.groups] == [(1, 3)]


def test_requests_of_a_dead_runner_are_forgotten():
    group = StandInGroup(StandIn(1), StandIn(2))
    rounds = rounds_of(group)
    rounds.start(requests(4), 0)
    group.die(1)
    assert ids(rounds.wait(for_all=True).groups) == [1, 3]
    assert rounds.requests_under_way() == []


def test_a_death_that_somebody_else_noticed_is_noticed():
    """The runner is back in service, but RLlib has dropped the call: nobody will ever answer it."""
    group = StandInGroup(StandIn(1), StandIn(2))
    rounds = rounds_of(group)
    rounds.start(requests(2), 0)
    group.calls = [call for call in group.calls if call[0] != 1]
    assert ids(rounds.wait(for_all=True).groups) == [1]
    assert rounds.requests_under_way() == []


def test_a_death_during_an_evaluation_leaves_no_request_behind(monkeypatch):
    """Runner 2 samples on all the time: that nothing is under way any more would never be seen."""
    group = StandInGroup(StandIn(1), StandIn(2), in_flight=2)
    rounds = rounds_of(group, max_staleness=1)
    rounds.start(requests(2), 0)
    algorithm = object.__new__(GRPO)
    algorithm._rounds, algorithm._progress = rounds, IterationProgress(None)
    monkeypatch.setattr(grpo, "evaluate_on_env_runners", lambda algorithm: group.die(1) or {"success_rate": 0.5})
    assert algorithm.evaluate() == {"success_rate": 0.5}
    group.healthy.add(1)  # what RLlib does at the beginning of the next iteration
    assert [r.group_id for r in rounds.requests_under_way()] == [1]
    rounds.start(requests(2, first=2), 0)
    group.ready = {1}
    assert ids(rounds.wait(for_all=False).groups) == [2]
    assert [r.group_id for r in rounds.requests_under_way()] == [1, 3]


def test_errors_stop_the_run_after_three_rounds_and_name_the_cause():
    restored = []
    runner = StandIn(1, error=RuntimeError("no GL"))
    rounds = rounds_of(StandInGroup(runner), restore=lambda: restored.append(1))
    for _ in range(sampling_rounds.MAX_FAILED_ROUNDS - 1):
        rounds.start(requests(1), 0)
        assert rounds.wait(for_all=True).groups == []
    rounds.start(requests(1), 0)
    with pytest.raises(RuntimeError, match="RuntimeError: no GL"):
        rounds.wait(for_all=True)
    assert runner.rebuilt == 3
    assert len(restored) == 2


def test_runners_that_never_take_over_the_weights_stop_the_run():
    group = StandInGroup(StandIn(1, weights_seq_no=0), StandIn(2, weights_seq_no=0))
    rounds = rounds_of(group)

    def play_round():
        rounds.start(requests(2), 3)
        return rounds.wait(for_all=True)

    for _ in range(sampling_rounds.MAX_FAILED_ROUNDS):
        assert len(play_round().refused) == 2
    group.runners[1].weights_seq_no = 3  # one success starts the count anew
    assert ids(play_round().groups) == [0]
    group.runners[1].weights_seq_no = 0
    for _ in range(sampling_rounds.MAX_FAILED_ROUNDS):
        play_round()
    with pytest.raises(RuntimeError, match=r"refused 8 requests in a row.*do not take over"):
        play_round()


def test_one_success_starts_the_count_anew():
    runner = StandIn(1, error=RuntimeError("no GL"))
    rounds = rounds_of(StandInGroup(runner))
    for error in (runner.error, None, runner.error, runner.error):
        runner.error = error
        rounds.start(requests(1), 0)
        rounds.wait(for_all=True)


@pytest.fixture
def timed(monkeypatch):
    """Returns a function that replaces the clock of a group of runners: only polling takes time; returns the clock."""

    def replace(group):
        now, fetch = [0.0], group.fetch_ready_async_reqs

        def poll(*, tags, timeout_seconds):
            now[0] += timeout_seconds
            return fetch(tags=tags, timeout_seconds=timeout_seconds)

        group.fetch_ready_async_reqs = poll
        monkeypatch.setattr(sampling_rounds, "time", SimpleNamespace(monotonic=lambda: now[0]))
        return lambda: now[0]

    return replace


def test_a_hung_runner_costs_one_timeout_and_comes_back(timed):
    group = StandInGroup(StandIn(1), StandIn(2))
    clock, group.ready = timed(group), {2}
    rounds = rounds_of(group, timeout_s=50.0)
    rounds.start(requests(2), 0)
    assert ids(rounds.wait(for_all=True).groups) == [1]
    assert clock() >= 50.0
    started = clock()
    assert rounds.requests_under_way() == []  # else the next iteration would begin with a wait for it
    assert rounds.start(requests(2, first=2), 0) == []  # the hung one gets nothing more
    assert ids(rounds.wait(for_all=True).groups) == [2, 3]
    assert clock() - started < 1.0
    group.ready = {1, 2}
    rounds.start(requests(1, first=4), 0)
    assert ids(rounds.wait(for_all=True).groups) == [0, 4]
    rounds.start(requests(2, first=5), 0)
    assert [r.group_id for r in rounds.requests_under_way()] == [5, 6]
    assert [worker for worker, _ in group.calls] == [1, 2]
    assert clock() - started < 1.0


def test_a_hung_runner_that_is_replaced_is_waited_for_again(timed):
    group = StandInGroup(StandIn(1), StandIn(2))
    timed(group)
    group.ready = {2}
    rounds = rounds_of(group, timeout_s=50.0)
    rounds.start(requests(2), 0)
    rounds.wait(for_all=True)
    group.die(1)
    rounds.forget_lost_requests()
    group.healthy.add(1)
    rounds.start(requests(2, first=2), 0)
    assert [r.group_id for r in rounds.requests_under_way()] == [2, 3]


def test_nothing_but_hung_runners_are_waited_for_and_stop_the_run(timed):
    group = StandInGroup(StandIn(1))
    clock, group.ready = timed(group), set()
    rounds = rounds_of(group, timeout_s=50.0)
    assert rounds.start(requests(1), 0) == []
    for _ in range(sampling_rounds.MAX_FAILED_ROUNDS - 1):
        assert rounds.wait(for_all=True).groups == []
        assert rounds.start(requests(1, first=1), 0) == requests(1, first=1)
    with pytest.raises(RuntimeError, match="did not answer within `sample_timeout_s`"):
        rounds.wait(for_all=True)
    assert clock() >= 50.0 * sampling_rounds.MAX_FAILED_ROUNDS


def test_a_local_runner_plays_at_once():
    rounds = rounds_of(StandInGroup(StandIn(0)))
    rounds.start(requests(2), 0)
    assert rounds.requests_under_way() == []
    assert ids(rounds.wait(for_all=True).groups) == [0, 1]
