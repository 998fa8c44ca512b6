"""Requests for groups on their way to the environment runners, and what comes back.

The algorithm starts a round (some requests, dealt out to all runners that are free) and takes in results later. In
the plain on-policy loop it does so at once; with `max_sampling_staleness` it makes an update in between.
"""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_vla.env_runners.group import CollectedGroup, GroupRequest

logger = logging.getLogger("ray.rllib")

# Consecutive fruitless waits (every environment runner failed), after which the run stops with the cause.
MAX_FAILED_ROUNDS = 3
# Seconds to wait for the first of them to come back after all died.
MAX_RESTART_S = 120.0
_TAG = "sample_groups"
_POLL_S = 0.05


@dataclass
class StoredGroup:
    """A group with contrast, waiting in the object store to be trained on."""

    episodes: ray.ObjectRef  # list of SingleAgentEpisode
    group_id: int
    weights_seq_no: int
    num_model_calls: int


@dataclass
class SampleResult:
    """What one environment runner returned for its share of a round."""

    groups: list[tuple] = field(default_factory=list)
    metrics: dict | None = None
    refused: list[GroupRequest] = field(default_factory=list)
    error: str | None = None


@dataclass
class Arrived:
    """What a wait brought.

    Attributes:
        groups: The groups that the runners kept.
        metrics: One entry per runner that sampled.
        refused: Requests of runners that hold other weights than these were made for: they need the present ones.
    """

    groups: list[StoredGroup] = field(default_factory=list)
    metrics: list[dict] = field(default_factory=list)
    refused: list[GroupRequest] = field(default_factory=list)


def _sample(
    env_runner,
    requests: list[GroupRequest],
    weights_seq_no: int,
    on_group: Callable[[CollectedGroup], None] | None = None,
) -> SampleResult:
    """Runs on the environment runner. Errors are returned, not raised: RLlib would restart the runner silently."""
    if env_runner.weights_seq_no != weights_seq_no:
        return SampleResult(refused=requests)
    try:
        groups = env_runner.sample_group_refs(requests, on_group)
        return SampleResult(groups, env_runner.get_metrics())
    except Exception as error:
        logger.exception("Sampling failed; the simulators are rebuilt.")
        env_runner.make_env()
        return SampleResult(error=f"{type(error).__name__}: {error}")


class SamplingRounds:
    """Hands requests to the environment runners and takes in their results.

    Args:
        env_runner_group: The runners; a single local one plays its requests as soon as they are started.
        max_staleness: Rounds that may be under way beside the one that is being waited for.
        timeout_s: Seconds that a wait may take; runners without an answer by then are overdue: later waits do not wait
            for them as long as others answer. None: no limit.
        restore: Brings back runners that were restarted.
    """

    def __init__(
        self,
        env_runner_group: EnvRunnerGroup,
        *,
        max_staleness: int,
        timeout_s: float | None,
        restore: Callable[[], None],
    ):
        self._runners = env_runner_group
        self._max_staleness = max_staleness
        self._timeout_s = timeout_s
        self._restore = restore
        self._under_way: dict[int, deque[list[GroupRequest]]] = defaultdict(deque)  # runner -> shares, oldest first
        self._overdue: set[int] = set()  # runners that a wait gave up on, and that have not answered since
        self._local_results: list[SampleResult] = []
        self._failed_waits = 0
        self._num_refusals = 0

    @property
    def is_local(self) -> bool:
        """Whether the only runner lives in this process."""
        return self._runners.num_remote_env_runners() == 0

    def requests_under_way(self) -> list[GroupRequest]:
        """Returns the requests whose results are waited for, in the order of their group ids.

        Those of overdue runners are not among them: their groups count as lost, unless they come after all.
        """
        requests = [
            request
            for worker, shares in self._under_way.items()
            if worker not in self._overdue
            for share in shares
            for request in share
        ]
        return sorted(requests, key=lambda request: request.group_id)

    def start(
        self,
        requests: list[GroupRequest],
        weights_seq_no: int,
        on_group: Callable[[CollectedGroup], None] | None = None,
    ) -> list[GroupRequest]:
        """Deals `requests` out to the runners, the least busy first.

        Args:
            requests: Groups to collect.
            weights_seq_no: Version of the weights that must sample them; a runner with another one refuses.
            on_group: Called with every complete group; a local runner only (the function would drag its owner along
                to a remote one).

        Returns:
            The requests for which there was no free runner.
        """
        if self.is_local:
            self._local_results.append(_sample(self._runners.local_env_runner, requests, weights_seq_no, on_group))
            return []
        free = [w for w in self._runners.healthy_env_runner_ids() if len(self._under_way[w]) <= self._max_staleness]
        free.sort(key=lambda worker: len(self._under_way[worker]))
        if not free:
            return requests
        unplaced = []
        for i, worker in enumerate(free):
            share = requests[i :: len(free)]
            if share and not self._call(worker, share, weights_seq_no):
                unplaced += share
        return sorted(unplaced, key=lambda request: request.group_id)

    def wait(self, *, for_all: bool) -> Arrived:
        """Blocks until results arrive.

        Args:
            for_all: Wait for everything that is under way; else for the first results.

        Raises:
            RuntimeError: Nothing but failures, or refusals, several times in a row.
        """
        results = self._take_local() if self.is_local else self._fetch(for_all)
        arrived = Arrived(refused=[request for result in results for request in result.refused])
        sampled = [result for result in results if result.metrics is not None]
        if sampled:
            self._failed_waits = self._num_refusals = 0
            arrived.metrics = [result.metrics for result in sampled]
            arrived.groups = [StoredGroup(*stored) for result in sampled for stored in result.groups]
        elif arrived.refused:
            self._count_refusals(sum(bool(result.refused) for result in results))
        else:
            self._handle_failure([result.error for result in results if result.error])
        return arrived

    def drop(self) -> None:
        """Waits for whatever is under way and drops its results."""
        self._fetch(for_all=True)

    def forget_lost_requests(self) -> None:
        """Gives up the requests of runners that are dead at the moment.

        RLlib drops them from its own count, whichever call notices the death. So this has to be looked at after every
        kind of call, before RLlib takes the restarted runner into service again.
        """
        alive = set(self._runners.healthy_env_runner_ids())
        nothing_left = self._runners.num_in_flight_async_reqs(_TAG) == 0
        for worker in [worker for worker in self._under_way if nothing_left or worker not in alive]:
            self._overdue.discard(worker)
            lost = [request.group_id for share in self._under_way.pop(worker) for request in share]
            if lost:
                logger.warning(f"Environment runner {worker} is gone; groups {lost} are lost with it.")

    def _call(self, worker: int, share: list[GroupRequest], weights_seq_no: int) -> bool:
        num_sent = self._runners.foreach_env_runner_async(
            lambda env_runner: _sample(env_runner, share, weights_seq_no), tag=_TAG, remote_worker_ids=[worker]
        )
        if num_sent:
            self._under_way[worker].append(share)
        return bool(num_sent)

    def _take_local(self) -> list[SampleResult]:
        results, self._local_results = self._local_results, []
        return results

    def _fetch(self, for_all: bool) -> list[SampleResult]:
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        results: list[SampleResult] = []
        while self._is_waiting(results):
            if deadline is not None and time.monotonic() >= deadline:
                self._mark_overdue()
                break
            fetched = self._runners.fetch_ready_async_reqs(tags=_TAG, timeout_seconds=_POLL_S)
            for worker, result in fetched:
                if self._under_way[worker]:
                    self._under_way[worker].popleft()  # an actor answers in the order of its calls
                self._overdue.discard(worker)
                results.append(result)
            self.forget_lost_requests()
            if results and not for_all:
                break
        return results

    def _is_waiting(self, results: list[SampleResult]) -> bool:
        """Whether more results are waited for; those of overdue runners only while there is none at all."""
        return bool(self.requests_under_way()) or (not results and any(self._under_way.values()))

    def _mark_overdue(self) -> None:
        for worker, shares in self._under_way.items():
            if shares and worker not in self._overdue:
                logger.warning(
                    f"Environment runner {worker} did not answer within `sample_timeout_s`; sampling goes on without "
                    "it until it does."
                )
                self._overdue.add(worker)

    def _count_refusals(self, num_refusals: int) -> None:
        """A restarted runner refuses what waits in its queue until the weights arrive there, and nothing after."""
        self._num_refusals += num_refusals
        num_runners = max(1, self._runners.num_remote_env_runners())
        if self._num_refusals > MAX_FAILED_ROUNDS * num_runners * (1 + self._max_staleness):
            raise RuntimeError(
                f"The environment runners refused {self._num_refusals} requests in a row: they do not take over the "
                "learner's weights. The cause is in their logs (`worker-*.err` of Ray's session)."
            )

    def _handle_failure(self, errors: list[str]) -> None:
        self._failed_waits += 1
        cause = "; ".join(sorted(set(errors))) or "the runners died or did not answer within `sample_timeout_s`"
        if self._failed_waits >= MAX_FAILED_ROUNDS:
            raise RuntimeError(
                f"No environment runner could sample in {self._failed_waits} rounds in a row. Cause: {cause}"
            )
        logger.error(f"No environment runner could sample in this round: {cause}")
        # A runner that died needs seconds to come back (imports, model); failing rounds meanwhile prove nothing.
        deadline = time.monotonic() + MAX_RESTART_S
        self._restore()
        while not self._has_runner() and time.monotonic() < deadline:
            time.sleep(1.0)
            self._restore()

    def _has_runner(self) -> bool:
        return self.is_local or self._runners.num_healthy_remote_env_runners() > 0
