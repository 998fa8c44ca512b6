"""One episode of an evaluation, from start to result."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.base import ObjectState, Scene
from rllib_vla.env_runners.simulator import Reply
from rllib_vla.evaluation.object_motion import measure_motion
from rllib_vla.evaluation.report import EpisodeResult


class EvaluationTrajectory:
    """One episode of an evaluation, as `rllib_vla.env_runners.rollout.play` sees it.

    Args:
        scene: Initial condition.
        repeat: Which repeat of the scene; selects the sampling noise.
        position: Place in the protocol; results are reported in this order.
        frames: Keep a frame of every control step.
        motion: Keep the state of the task's object at every control step.
        divisible_chunks: False keeps what there is after every chunk instead, see `envs.base.Suite`.

    With `frames` or `motion` divisible chunks are executed one action at a time; the result is the same.
    """

    def __init__(
        self,
        scene: Scene,
        repeat: int,
        position: int,
        *,
        frames: bool = False,
        motion: bool = False,
        divisible_chunks: bool = True,
    ) -> None:
        self.scene = scene
        self.repeat = repeat
        self.position = position
        self.cancelled = False
        self.error: BaseException | None = None
        self.observation: dict[str, Any] = {}  # empty before the start and after the end
        self.success = False
        self.num_control_steps = 0
        self.num_model_calls = 0
        self.frames: list[np.ndarray] | None = [] if frames else None
        self.object_states: list[ObjectState] | None = [] if motion else None
        self.divisible_chunks = divisible_chunks
        self._stepwise = (frames or motion) and divisible_chunks
        self._planned: list[np.ndarray] = []

    def observe(self, reply: Reply) -> None:
        """Takes in the simulator's answer to the start or to the last actions."""
        self.observation = reply.observation or {}
        self.success = reply.success
        self.num_control_steps += reply.num_control_steps
        if self.frames is not None and reply.frame is not None:
            self.frames.append(reply.frame)
        if self.object_states is not None and reply.object_state is not None:
            self.object_states.append(reply.object_state)

    def fail(self, error: BaseException) -> None:
        """Marks the episode as lost with its simulator."""
        self.error = error

    @property
    def needs_plan(self) -> bool:
        """Whether the policy has to be asked (all actions of its last chunk were sent)."""
        return not self._planned

    def plan(self, chunk: np.ndarray) -> None:
        """Takes the policy's chunk, ``[C, D] float32``."""
        self._planned = [row[None] for row in chunk] if self._stepwise else [chunk]
        self.num_model_calls += 1

    def next_actions(self) -> np.ndarray:
        """Actions to send now, ``[n, D] float32``."""
        return self._planned.pop(0)

    @property
    def result(self) -> EpisodeResult:
        """Outcome of the finished episode."""
        motion = None if self.object_states is None else measure_motion(self.object_states)
        scene = self.scene
        return EpisodeResult(scene.task, scene.index, self.repeat, self.success, self.num_control_steps, motion)
