"""What environments share that play one task table and whose running episodes can be saved."""

import abc
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from envs import base
from envs.base import ManipulationEnv, Scene, TaskInfo, check_scene, draw_training_scene, unknown_name

RENDER_MODES = (None, "rgb_array")


@dataclasses.dataclass(frozen=True)
class EpisodeSnapshot:
    """A running episode: the scene, how far it is, and the simulator's state."""

    scene: Scene
    num_control_steps: int
    ended: bool
    simulator: Any


class SuiteEnv(ManipulationEnv):
    """Counts control steps, ends episodes, draws scenes and keeps snapshots; a subclass supplies the simulator.

    Attributes:
        SUITE: Name of the suite.
        TASKS: Its tasks.
        RESET_OPTIONS: What `reset` knows beside the scene.
    """

    SUITE: str
    TASKS: Sequence[TaskInfo]
    RESET_OPTIONS: tuple[str, ...] = ("scene",)

    def __init__(
        self,
        *,
        action_dim: int,
        chunk_size: int,
        max_control_steps: int | None,
        task_id: int | None,
        render_mode: str | None,
    ):
        """Checks the settings.

        Args:
            action_dim: Number of dimensions of one action.
            chunk_size: Largest number of actions in one `step` call.
            max_control_steps: Overrides the step limit of all tasks.
            task_id: `reset` without a scene draws one of this task; None: of any task.
            render_mode: ``"rgb_array"`` or None; `render` works in both.

        Raises:
            ValueError: For an argument out of range.
        """
        if render_mode not in RENDER_MODES:
            raise unknown_name("render mode", render_mode, map(str, RENDER_MODES))
        check_at_least(1, chunk_size=chunk_size)
        if max_control_steps is not None:
            check_at_least(1, max_control_steps=max_control_steps)
        if task_id is not None and task_id not in range(len(self.TASKS)):
            raise ValueError(f"task_id must be one of 0..{len(self.TASKS) - 1} in {self.SUITE!r}, got {task_id!r}")
        self.action_dim = action_dim
        self.chunk_size = int(chunk_size)
        self.render_mode = render_mode
        self._limit_override = max_control_steps
        self._task_id = task_id
        self._scene: Scene | None = None
        self._num_steps = 0
        self._ended = True

    # --- supplied by a subclass ------------------------------------------------------------------------------

    @abc.abstractmethod
    def _enter(self, scene: Scene) -> None:
        """Makes the simulator ready to play `scene`, in whatever state."""

    @abc.abstractmethod
    def _begin(self, options: dict[str, Any]) -> None:
        """Brings the simulator to the start of the scene that was entered."""

    @abc.abstractmethod
    def _execute(self, actions: np.ndarray) -> tuple[int, bool]:
        """Executes actions, float64 ``[n, action_dim]``, until success; returns how many, and whether it came."""

    @abc.abstractmethod
    def observe(self) -> dict[str, Any]:
        """Returns the observation of the present state."""

    @abc.abstractmethod
    def _save_simulator(self) -> Any:
        """Returns the simulator's state, picklable."""

    @abc.abstractmethod
    def _load_simulator(self, state: Any) -> None:
        """Goes on from a state of the scene that was entered."""

    # --- interface -------------------------------------------------------------------------------------------

    @property
    def scene(self) -> Scene | None:
        """The scene of the running episode."""
        return self._scene

    @property
    def task(self) -> TaskInfo:
        """The task of the running episode."""
        if self._scene is None:
            raise gym.error.ResetNeeded("no scene yet: call reset first")
        return self.TASKS[self._scene.task_id]

    @property
    def max_control_steps(self) -> int:
        return self.task.max_control_steps if self._limit_override is None else int(self._limit_override)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts an episode.

        Args:
            seed: Seeds the choice of a scene when `options` names none.
            options: ``{"scene": Scene}``; without it, a training scene is drawn at random. For what else there is see
                `RESET_OPTIONS`.

        Raises:
            ValueError: For a scene that the suite does not have, or an unknown option.
        """
        super().reset(seed=seed)
        options = options or {}
        for key in options:
            if key not in self.RESET_OPTIONS:
                raise unknown_name("reset option", key, self.RESET_OPTIONS)
        self._set_scene(
            options.get("scene") or draw_training_scene(self.np_random, self.SUITE, self.TASKS, self._task_id)
        )
        self._begin(options)
        self._num_steps, self._ended = 0, False
        return self.observe(), {"scene": self._scene}

    def step(self, chunk):
        """Executes up to `chunk_size` actions, ``[n, action_dim]``; see `ManipulationEnv`.

        Without `observes_end`, the observation after the end of the episode is empty and nothing is rendered.

        Raises:
            gymnasium.error.ResetNeeded: When no episode is running.
            ValueError: For a chunk of a wrong shape or with a value that is not finite.
        """
        if self._ended:
            raise gym.error.ResetNeeded("the episode has ended: call reset or load_state first")
        actions = self._check_chunk(chunk)[: self.max_control_steps - self._num_steps]
        started = time.perf_counter()
        num_steps, success = self._execute(actions)
        stepped = time.perf_counter()
        self._num_steps += num_steps
        truncated = not success and self._num_steps >= self.max_control_steps
        self._ended = success or truncated
        observation = self.observe() if self.observes_end or not self._ended else {}
        info = {
            base.NUM_CONTROL_STEPS: num_steps,
            base.SUCCESS: success,
            base.PHYSICS_TIME_S: stepped - started,
            base.RENDER_TIME_S: time.perf_counter() - stepped,
        }
        return observation, float(success), success, truncated, info

    def step_beyond_success(self, action: np.ndarray) -> tuple[dict[str, Any], bool]:
        """Executes one action ``[action_dim]`` whether or not the episode has ended, for recorders.

        The episode counts as ended afterwards.

        Returns:
            The observation and whether the goal holds after the action.
        """
        _, success = self._execute(self._check_chunk(np.asarray(action)[None]))
        self._num_steps += 1
        self._ended = True
        return self.observe(), success

    def save_state(self) -> EpisodeSnapshot:
        if self._scene is None:
            raise gym.error.ResetNeeded("there is no episode to save: call reset first")
        return EpisodeSnapshot(self._scene, self._num_steps, self._ended, self._save_simulator())

    def load_state(self, snapshot: EpisodeSnapshot) -> None:
        self._set_scene(snapshot.scene)
        self._load_simulator(snapshot.simulator)
        self._num_steps, self._ended = snapshot.num_control_steps, snapshot.ended

    def close(self) -> None:
        self._scene, self._ended = None, True

    def _set_scene(self, scene: Scene) -> None:
        check_scene(scene, self.SUITE, self.TASKS)
        self._enter(scene)
        self._scene = scene


def check_at_least(low: int, **settings: Any) -> None:
    """Refuses settings that are no integers of at least `low`, with a ValueError that names the first."""
    for key, value in settings.items():
        if not isinstance(value, int | np.integer) or value < low:
            raise ValueError(f"{key} must be an integer of at least {low}, got {value!r}")
