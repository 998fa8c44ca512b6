"""One simulator that plays many trajectories in turn.

This file runs inside the simulator actors, so it imports neither torch nor RLlib: an actor stays small and starts
quickly. Every trajectory occupies a *slot*. `Simulator` holds a single environment object: before a slot is stepped
its snapshot is loaded, and when another slot takes over, the snapshot is saved (0.2-0.3 ms for LIBERO).
`SimulatorWithoutSnapshots` holds one environment object per slot.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs import make_env, supports_snapshots
from envs.base import ManipulationEnv, ObjectState, Scene
from envs.render_devices import RenderShare, set_share

# Slots of a simulator whose environment has no snapshots: one computes while the other waits for the policy. More
# would only take memory.
MAX_SLOTS_WITHOUT_SNAPSHOTS = 2
# Initial states (snapshot and first observation) kept per simulator; all members of a group, and every later
# visit to the scene, start from them without a reset.
MAX_CACHED_SCENES = 512


@dataclass(frozen=True)
class Request:
    """What a slot shall do next: start `scene` (if given), else execute `chunk`.

    Attributes:
        slot: Which trajectory of this simulator is meant.
        scene: Initial condition of a new trajectory, or None to continue the slot's trajectory.
        chunk: float32 [C, D], actions in the simulator's own units; None with `scene`.
        object_state: Whether the reply shall tell where the task's object is.
    """

    slot: int
    scene: Scene | None = None
    chunk: np.ndarray | None = None
    object_state: bool = False


@dataclass(frozen=True)
class Reply:
    """What came of a request.

    Attributes:
        observation: The environment's observation (dict), None after the end of the trajectory.
        success: Whether the task was solved.
        done: Whether the trajectory ended (success or step limit).
        num_control_steps: Control steps executed by this request, 0 for a start.
        simulation_s: Seconds spent in the environment.
        frame: uint8 [H, W, 3] picture for videos, only if recording was asked for.
        object_state: Where the task's object is, only if it was asked for.
    """

    observation: dict[str, Any] | None
    success: bool
    done: bool
    num_control_steps: int
    simulation_s: float
    frame: np.ndarray | None = None
    object_state: ObjectState | None = None


class Simulator:
    """Executes lists of requests on one environment object.

    Args:
        suite: Name of the benchmark suite, see `envs.make_env`.
        env_config: Keyword arguments of the environment.
        render_share: Which of the machine's GPUs draw the frames of this process, if it is one of several.
    """

    def __init__(self, suite: str, env_config: dict[str, Any], render_share: RenderShare | None = None):
        if render_share is not None:
            set_share(render_share)
        self._env = _make_env(suite, env_config)
        self._initial: OrderedDict[Scene, tuple[Any, dict]] = OrderedDict()
        self._snapshots: dict[int, Any] = {}
        self._loaded_slot: int | None = None

    def execute(self, requests: list[Request], record_frames: bool = False) -> list[Reply]:
        """Executes the requests in order.

        Args:
            requests: At most one request per slot.
            record_frames: Adds a video frame to every reply.

        Returns:
            One reply per request, in the same order.
        """
        return [self._execute_one(request, record_frames) for request in requests]

    def close(self) -> None:
        """Frees the environment."""
        self._env.close()

    def _execute_one(self, request: Request, record_frames: bool) -> Reply:
        if request.scene is not None:
            snapshot, observation = self._initial_state(request.scene)
            self._snapshots[request.slot] = snapshot
            if self._loaded_slot == request.slot:
                self._loaded_slot = None
            frame = object_state = None
            if record_frames or request.object_state:
                self._load(request.slot)
                frame = self._env.render() if record_frames else None
                object_state = self._env.object_state() if request.object_state else None
            return Reply(observation, False, False, 0, 0.0, frame, object_state)

        self._load(request.slot)
        reply = _step(self._env, request, record_frames)
        if reply.done:
            self._snapshots.pop(request.slot, None)
            self._loaded_slot = None
        return reply

    def _initial_state(self, scene: Scene) -> tuple[Any, dict]:
        if scene in self._initial:
            self._initial.move_to_end(scene)
            return self._initial[scene]
        self._park()
        observation, _ = self._env.reset(options={"scene": scene})
        self._initial[scene] = (self._env.save_state(), observation)
        if len(self._initial) > MAX_CACHED_SCENES:
            self._initial.popitem(last=False)
        return self._initial[scene]

    def _load(self, slot: int) -> None:
        if self._loaded_slot == slot:
            return
        self._park()
        self._env.load_state(self._snapshots[slot])
        self._loaded_slot = slot

    def _park(self) -> None:
        """Saves the trajectory that is loaded into the environment."""
        if self._loaded_slot is not None:
            self._snapshots[self._loaded_slot] = self._env.save_state()
            self._loaded_slot = None


class SimulatorWithoutSnapshots:
    """Executes lists of requests with one environment object per slot; every trajectory starts with a reset.

    Args:
        suite: As in `Simulator`.
        env_config: As in `Simulator`.
        render_share: As in `Simulator`.
    """

    def __init__(self, suite: str, env_config: dict[str, Any], render_share: RenderShare | None = None):
        if render_share is not None:
            set_share(render_share)
        self._make_env = lambda: _make_env(suite, env_config)
        self._envs: dict[int, ManipulationEnv] = {}

    def execute(self, requests: list[Request], record_frames: bool = False) -> list[Reply]:
        """As `Simulator.execute`."""
        return [self._execute_one(request, record_frames) for request in requests]

    def close(self) -> None:
        """Frees the environments."""
        for env in self._envs.values():
            env.close()

    def _execute_one(self, request: Request, record_frames: bool) -> Reply:
        if request.scene is None:
            return _step(self._envs[request.slot], request, record_frames)
        if request.slot not in self._envs:
            self._envs[request.slot] = self._make_env()
        env = self._envs[request.slot]
        observation, _ = env.reset(options={"scene": request.scene})
        frame = env.render() if record_frames else None
        object_state = env.object_state() if request.object_state else None
        return Reply(observation, False, False, 0, 0.0, frame, object_state)


def simulator_class(suite: str) -> type[Simulator] | type[SimulatorWithoutSnapshots]:
    """Returns the class that plays `suite`."""
    return Simulator if supports_snapshots(suite) else SimulatorWithoutSnapshots


def _make_env(suite: str, env_config: dict[str, Any]) -> ManipulationEnv:
    env = make_env(suite, **env_config)
    env.observes_end = False  # replies have no observation after the end
    return env


def _step(env: ManipulationEnv, request: Request, record_frames: bool) -> Reply:
    observation, _, terminated, truncated, info = env.step(request.chunk)
    done = terminated or truncated
    return Reply(
        observation=None if done else observation,
        success=bool(terminated),
        done=done,
        num_control_steps=int(info["num_control_steps"]),
        simulation_s=float(info["physics_time_s"] + info["render_time_s"]),
        frame=env.render() if record_frames else None,
        object_state=env.object_state() if request.object_state else None,
    )
