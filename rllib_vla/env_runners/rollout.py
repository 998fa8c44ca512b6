"""Plays trajectories on a simulator pool with one batched policy call for all that wait.

The engine knows nothing of models, groups or RLlib: `act` turns a list of trajectories that wait for an action
into action chunks, and `Trajectory.observe` receives what the simulator answered.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from envs.base import Scene
from rllib_vla.env_runners.simulator import Reply, Request
from rllib_vla.env_runners.simulator_pool import ActorSimulatorPool, InProcessSimulatorPool, Lane


class Trajectory(Protocol):
    """What the engine needs to know of a trajectory."""

    scene: Scene
    cancelled: bool  # true: stop playing it, nobody needs it any more

    def observe(self, reply: Reply) -> None:
        """Takes in the simulator's answer to the start or to the last chunk."""

    def fail(self, error: BaseException) -> None:
        """Is told that its simulator was lost."""


T = TypeVar("T", bound=Trajectory)


def play(
    pool: InProcessSimulatorPool | ActorSimulatorPool,
    trajectories: Iterable[T],
    act: Callable[[list[T]], list[np.ndarray]],
    *,
    record_frames: bool = False,
    object_states: bool = False,
) -> Iterator[T]:
    """Plays all `trajectories` and yields each one when it has ended, failed or been cancelled.

    A free slot takes the next trajectory at once, so that the pool stays full until the supply ends.

    Args:
        pool: `ActorSimulatorPool` or `InProcessSimulatorPool`.
        trajectories: The supply; taken lazily, in order.
        act: Maps the trajectories that wait for an action to chunks, float32 [C, D] in simulator units.
        record_frames: Asks the simulators for video frames.
        object_states: Asks the simulators where the task's object is.
    """
    supply = iter(trajectories)
    playing: dict[Lane, dict[int, T]] = {lane: {} for lane in pool.lanes}  # lane -> slot -> trajectory

    def refill(lane: Lane) -> list[Request]:
        requests = []
        for slot in lane.slots:
            if slot not in playing[lane]:
                trajectory = next(supply, None)
                if trajectory is None:
                    break
                playing[lane][slot] = trajectory
                requests.append(Request(slot, scene=trajectory.scene, object_state=object_states))
        return requests

    num_in_flight = 0
    # Slots are dealt out one per lane in turn: with few trajectories, all simulators get some.
    starts: dict[Lane, list[Request]] = {lane: [] for lane in pool.lanes}
    for position in range(max(len(lane.slots) for lane in pool.lanes)):
        for lane in pool.lanes:
            if position < len(lane.slots) and (trajectory := next(supply, None)) is not None:
                slot = lane.slots[position]
                playing[lane][slot] = trajectory
                starts[lane].append(Request(slot, scene=trajectory.scene, object_state=object_states))
    for lane, requests in starts.items():
        if requests:
            pool.submit(lane, requests, record_frames)
            num_in_flight += 1

    try:
        while num_in_flight:
            waiting: list[tuple[Lane, int, T]] = []
            requests_of: dict[Lane, list[Request]] = {}
            for completed in pool.wait():
                num_in_flight -= 1
                lane, slots = completed.lane, playing[completed.lane]
                if completed.error is not None:
                    for trajectory in slots.values():
                        trajectory.fail(completed.error)
                        yield trajectory
                    slots.clear()
                else:
                    # The replies are in the order of the requests, which is the order of insertion.
                    for slot, reply in zip(list(slots), completed.replies, strict=True):
                        trajectory = slots.pop(slot)
                        trajectory.observe(reply)
                        if reply.done or trajectory.cancelled:
                            yield trajectory
                        else:
                            waiting.append((lane, slot, trajectory))
                requests_of[lane] = []

            chunks = act([trajectory for _, _, trajectory in waiting]) if waiting else []
            for (lane, slot, trajectory), chunk in zip(waiting, chunks, strict=True):
                playing[lane][slot] = trajectory
                requests_of[lane].append(Request(slot, chunk=chunk, object_state=object_states))
            for lane, requests in requests_of.items():
                requests += refill(lane)
                if requests:
                    pool.submit(lane, requests, record_frames)
                    num_in_flight += 1
    finally:
        pool.drain()
