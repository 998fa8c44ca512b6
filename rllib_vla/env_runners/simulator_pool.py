"""A pool of simulators that are called asynchronously, watched, and restarted when they fail.

The pool is divided into *lanes*. A lane is one outstanding call to one simulator, carrying the requests of a few
trajectories. A simulator has two lanes by default: while the policy computes actions for one, the simulator works
on the other, so that neither waits.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from envs import supports_snapshots
from envs.render_devices import RenderShare
from rllib_vla.env_runners.simulator import Reply, Request, simulator_class

logger = logging.getLogger("ray.rllib")

TIMEOUT_S = 60.0
# Environments without snapshots run a process of their own, with time limits that say more (RoboTwin: up to 360 s).
TIMEOUT_WITHOUT_SNAPSHOTS_S = 500.0


class SimulatorError(RuntimeError):
    """A simulator raised, hung or died; the trajectories of its lanes are lost."""


class AllSimulatorsFailedError(RuntimeError):
    """Too many simulator failures in a row: the cause is systematic."""


@dataclass(eq=False)
class Lane:
    """One outstanding call to one simulator.

    Attributes:
        simulator_index: Which simulator of the pool serves the lane.
        slots: Slot numbers of the lane at that simulator.
    """

    simulator_index: int
    slots: tuple[int, ...]


@dataclass
class Completed:
    """The outcome of a lane's call: replies, or the error that ended it."""

    lane: Lane
    replies: list[Reply] = field(default_factory=list)
    error: BaseException | None = None


def make_lanes(num_simulators: int, slots_per_simulator: int, lanes_per_simulator: int) -> list[Lane]:
    """Divides the slots of each simulator into lanes of nearly equal size."""
    lanes_per_simulator = min(lanes_per_simulator, slots_per_simulator)
    return [
        Lane(simulator, tuple(range(lane, slots_per_simulator, lanes_per_simulator)))
        for lane in range(lanes_per_simulator)
        for simulator in range(num_simulators)
    ]


def failure_cause(error: BaseException) -> str:
    """Returns one line about why a call to a simulator failed.

    What an environment's error says after its first line (the standard error of RoboTwin's process) is left out.
    """
    if isinstance(error, RayTaskError) and type(error.cause) is not RayError:  # else: a cause that cannot be pickled
        error = error.cause
    lines = str(error).strip().splitlines()
    if not lines:
        return repr(error)
    # Ray's own errors, e.g. of a dead process, end with the cause.
    return lines[-1].strip() if isinstance(error, RayError) else f"{type(error).__name__}: {lines[0]}"


def _render_share(number: int) -> RenderShare:
    """Simulators draw on the GPUs of their environment runner; if it has none, on any.

    Ray hides all GPUs from a process that reserves none: an empty `CUDA_VISIBLE_DEVICES` says nothing about drawing.
    """
    return RenderShare(number, os.environ.get("CUDA_VISIBLE_DEVICES") or None)


class InProcessSimulatorPool:
    """A single simulator in this process, without Ray: for tests, debugging and small evaluations.

    Args:
        suite: Benchmark suite.
        env_config: Keyword arguments of the environment.
        slots_per_simulator: Trajectories that the simulator plays in turn.
        max_consecutive_failures: Failures without an executed chunk in between after which the pool gives up.
    """

    def __init__(
        self,
        suite: str,
        env_config: dict[str, Any],
        *,
        slots_per_simulator: int = 8,
        max_consecutive_failures: int = 8,
    ):
        self._make_simulator = lambda: simulator_class(suite)(suite, env_config, _render_share(0))
        self._simulator = self._make_simulator()
        self.lanes = make_lanes(1, slots_per_simulator, 1)
        self.num_failures = 0
        self._max_consecutive_failures = max_consecutive_failures
        self._consecutive_failures = 0
        self._completed: list[Completed] = []

    def submit(self, lane: Lane, requests: list[Request], record_frames: bool = False) -> None:
        """Executes the requests at once; `wait` hands out the outcome.

        Raises:
            AllSimulatorsFailedError: When nothing but failures happened `max_consecutive_failures` times.
        """
        try:
            completed = Completed(lane, self._simulator.execute(requests, record_frames))
            if any(reply.num_control_steps for reply in completed.replies):
                self._consecutive_failures = 0
        except Exception as error:
            self.num_failures += 1
            self._consecutive_failures += 1
            if self._consecutive_failures >= self._max_consecutive_failures:
                raise AllSimulatorsFailedError(
                    f"{self._consecutive_failures} simulator failures in a row without a single executed chunk. "
                    f"The last one: {failure_cause(error)}"
                ) from error
            self._simulator.close()
            self._simulator = self._make_simulator()
            completed = Completed(lane, error=SimulatorError(f"the simulator raised {failure_cause(error)}"))
        self._completed.append(completed)

    def wait(self) -> list[Completed]:
        """Returns all outcomes that are ready."""
        completed, self._completed = self._completed, []
        return completed

    def drain(self) -> None:
        """Forgets outstanding calls."""
        self._completed.clear()

    def close(self) -> None:
        """Frees the simulator."""
        self._simulator.close()


def _unless_restarted(outcome: Completed, failure: BaseException | None) -> Completed:
    """A lane whose simulator failed beside it cannot go on: the new one does not know its trajectories."""
    if failure is None or outcome.error is not None or all(reply.done for reply in outcome.replies):
        return outcome
    return Completed(outcome.lane, error=failure)


class ActorSimulatorPool:
    """Simulators in Ray actors, one process each.

    Args:
        suite: Benchmark suite.
        env_config: Keyword arguments of the environment.
        num_simulators: Number of actors.
        slots_per_simulator: Trajectories that one simulator plays in turn.
        lanes_per_simulator: Outstanding calls per simulator.
        num_cpus_per_simulator: Logical CPUs reserved per actor.
        strategy_of: Maps the number of a simulator to Ray's scheduling strategy for it; None: Ray's default.
        timeout_s: Seconds one request (one chunk) may take before its simulator counts as hung; None: `TIMEOUT_S`, and
            `TIMEOUT_WITHOUT_SNAPSHOTS_S` for a suite without snapshots.
        start_timeout_s: Extra seconds for the first call of each lane of a fresh simulator (model building,
            compilation; without snapshots every slot starts an environment of its own).
        max_consecutive_failures: Failures without an executed chunk in between after which the pool gives up.
        first_number: Number of this pool's first simulator among those of all pools; it spreads them over GPUs.
    """

    def __init__(
        self,
        suite: str,
        env_config: dict[str, Any],
        *,
        num_simulators: int,
        slots_per_simulator: int,
        lanes_per_simulator: int = 2,
        num_cpus_per_simulator: float = 1.0,
        strategy_of: Callable[[int], Any] | None = None,
        timeout_s: float | None = None,
        start_timeout_s: float = 300.0,
        max_consecutive_failures: int = 8,
        first_number: int = 0,
    ):
        # `max_restarts=0`: a restarted actor would have lost its slots without anybody noticing.
        actor_class = ray.remote(num_cpus=num_cpus_per_simulator, max_restarts=0)(simulator_class(suite))
        strategy_of = strategy_of or (lambda index: "DEFAULT")
        self._make_actor: Callable[[int], Any] = lambda index: actor_class.options(
            scheduling_strategy=strategy_of(index)
        ).remote(suite, env_config, _render_share(first_number + index))
        self._actors = [self._make_actor(index) for index in range(num_simulators)]
        if timeout_s is None:
            timeout_s = TIMEOUT_S if supports_snapshots(suite) else TIMEOUT_WITHOUT_SNAPSHOTS_S
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._max_consecutive_failures = max_consecutive_failures
        self._consecutive_failures = 0
        self._in_flight: dict[ray.ObjectRef, tuple[Lane, float]] = {}  # call -> lane, seconds it may take; oldest first
        self._busy_since = [0.0] * num_simulators  # when the oldest call of each simulator began
        self._answered: set[Lane] = set()  # lanes that their present simulator has answered before
        self.lanes = make_lanes(num_simulators, slots_per_simulator, lanes_per_simulator)
        self.num_failures = 0

    def submit(self, lane: Lane, requests: list[Request], record_frames: bool = False) -> None:
        """Starts executing `requests` (at most one per slot of the lane); returns at once."""
        simulator = lane.simulator_index
        ref = self._actors[simulator].execute.remote(requests, record_frames)
        if simulator not in self._deadlines():
            self._busy_since[simulator] = time.monotonic()
        allowance = self._timeout_s * len(lane.slots) + (0.0 if lane in self._answered else self._start_timeout_s)
        self._in_flight[ref] = (lane, allowance)

    def wait(self) -> list[Completed]:
        """Blocks until at least one call completed or failed; returns all that did.

        Raises:
            AllSimulatorsFailedError: When nothing but failures happened `max_consecutive_failures` times.
        """
        while self._in_flight:
            refs = list(self._in_flight)
            timeout = min(max(min(self._deadlines().values()) - time.monotonic(), 0.0), 5.0)
            ready, _ = ray.wait(refs, num_returns=1, timeout=timeout)
            if ready:
                ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            completed = [outcome for ref in ready for outcome in self._collect(ref)]
            completed += self._collect_overdue()
            if completed:
                failures = {o.lane.simulator_index: o.error for o in completed if o.error is not None}
                return [_unless_restarted(outcome, failures.get(outcome.lane.simulator_index)) for outcome in completed]
        return []

    def drain(self) -> None:
        """Waits for outstanding calls and forgets their results."""
        while self._in_flight:
            self.wait()

    def close(self) -> None:
        """Kills all simulators."""
        for actor in self._actors:
            ray.kill(actor)
        self._in_flight.clear()

    def _collect(self, ref: ray.ObjectRef) -> list[Completed]:
        if ref not in self._in_flight:  # already failed together with another lane of its simulator
            return []
        lane, _ = self._in_flight[ref]
        try:
            replies = ray.get(ref)
        except Exception as error:
            return self._restart(lane.simulator_index, error)
        del self._in_flight[ref]
        self._busy_since[lane.simulator_index] = time.monotonic()
        self._answered.add(lane)
        if any(reply.num_control_steps for reply in replies):  # starting a scene proves little: steps may still fail
            self._consecutive_failures = 0
        return [Completed(lane, replies)]

    def _deadlines(self) -> dict[int, float]:
        """Returns when the oldest call of each busy simulator has to be answered; its others wait behind it."""
        deadlines: dict[int, float] = {}
        for lane, allowance in self._in_flight.values():
            deadlines.setdefault(lane.simulator_index, self._busy_since[lane.simulator_index] + allowance)
        return deadlines

    def _collect_overdue(self) -> list[Completed]:
        now = time.monotonic()
        overdue = [simulator for simulator, deadline in self._deadlines().items() if deadline <= now]
        outcomes = []
        for simulator in overdue:
            error = TimeoutError(f"no answer within simulator_timeout_s={self._timeout_s:g} per chunk")
            outcomes += self._restart(simulator, error)
        return outcomes

    def _restart(self, simulator: int, error: BaseException) -> list[Completed]:
        """Replaces a simulator and fails all its outstanding lanes."""
        cause = failure_cause(error)
        logger.warning(f"Simulator {simulator} failed and is restarted: {cause}")
        self.num_failures += 1
        self._consecutive_failures += 1
        ray.kill(self._actors[simulator])
        if self._consecutive_failures >= self._max_consecutive_failures:
            self._in_flight.clear()  # else `drain` would wait for what will not come
            raise AllSimulatorsFailedError(
                f"{self._consecutive_failures} simulator failures in a row without a single executed chunk. "
                f"The last one: {cause}"
            ) from error
        self._actors[simulator] = self._make_actor(simulator)
        self._answered = {lane for lane in self._answered if lane.simulator_index != simulator}
        lost = [ref for ref, (lane, _) in self._in_flight.items() if lane.simulator_index == simulator]
        failure = SimulatorError(f"simulator {simulator} failed: {cause}")
        return [Completed(self._in_flight.pop(ref)[0], error=failure) for ref in lost]
