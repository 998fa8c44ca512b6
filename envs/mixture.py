"""Mixtures: several suites of the same action space, played as one.

A mixture is named by its members, `"libero_spatial+libero_object"`. Its scenes are those of its members, one after the
other; each is played by the environment of the suite it comes from.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np

from envs import base
from envs.base import ManipulationEnv, ObjectState, Scene, Suite, unknown_name

SEPARATOR = "+"


def member_names(suite: str) -> list[str]:
    """Returns the names of the suites that `suite` is made of: itself, if it is no mixture."""
    names = suite.split(SEPARATOR)
    if len(set(names)) < len(names) or not all(names):
        raise ValueError(f"a mixture names different suites, like 'libero_spatial+libero_object'; got {suite!r}")
    return names


def mixed_suite(name: str, members: Sequence[Suite]) -> Suite:
    """Returns what is known about a mixture: what its members agree on.

    Raises:
        ValueError: When they have different gripper conventions.
    """
    first = members[0]
    for member in members[1:]:
        if member.gripper_convention != first.gripper_convention:
            raise ValueError(f"{first.name!r} and {member.name!r} cannot be mixed: their gripper conventions differ")
    return dataclasses.replace(
        first,
        name=name,
        divisible_chunks=all(member.divisible_chunks for member in members),
        prompt_length=max(member.prompt_length for member in members),
        process_memory_gb=max(member.process_memory_gb for member in members),
        model_memory_gb=max(member.model_memory_gb for member in members),
    )


class MixedEnv(ManipulationEnv):
    """Plays each scene on the environment of its suite.

    Args:
        members: The environments by name of their suite.

    Raises:
        ValueError: When frames, proprioception or actions of the members differ in shape.
    """

    def __init__(self, members: dict[str, ManipulationEnv]):
        self._members = members
        self._current: ManipulationEnv | None = None
        (first_name, first), *others = members.items()
        for name, member in others:
            for what, ours, theirs in (
                ("action chunks", first.action_space, member.action_space),
                *(
                    (key, first.observation_space[key], member.observation_space[key])
                    for key in (base.IMAGE, base.PROPRIO)
                ),
            ):
                if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                    raise ValueError(
                        f"{first_name!r} and {name!r} cannot be mixed: {what} have shape "
                        f"{list(ours.shape or ())} and {list(theirs.shape or ())}"
                    )
        self.chunk_size, self.action_dim = first.chunk_size, first.action_dim
        self.supports_snapshots = all(member.supports_snapshots for member in members.values())
        self.action_space = first.action_space
        texts = [cast(gym.spaces.Text, member.observation_space[base.INSTRUCTION]) for member in members.values()]
        characters = frozenset[str]().union(*(text.character_set for text in texts))
        instruction = gym.spaces.Text(max(text.max_length for text in texts), charset=characters)
        self.observation_space = gym.spaces.Dict({**first.observation_space, base.INSTRUCTION: instruction})

    @property
    def max_control_steps(self) -> int:
        return self._playing().max_control_steps

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Starts an episode of `options["scene"]`; without it, of a scene drawn from a suite drawn at random."""
        super().reset(seed=seed)
        scene = (options or {}).get("scene")
        if scene is None:
            self._current = list(self._members.values())[int(self.np_random.integers(len(self._members)))]
        else:
            self._enter(scene)
        return self._playing().reset(seed=seed, options=options)

    def step(self, chunk: np.ndarray) -> tuple[dict[str, Any], SupportsFloat, bool, bool, dict[str, Any]]:
        """Executes a chunk on the environment of the running episode."""
        env = self._playing()
        env.observes_end = self.observes_end
        return env.step(chunk)

    def render(self) -> np.ndarray:  # type: ignore[override]  # gymnasium's own result type fits nothing
        """Returns the running episode's video frame."""
        return self._playing().render()

    def save_state(self) -> tuple[str, Any]:
        current = self._playing()
        return next(name for name, member in self._members.items() if member is current), current.save_state()

    def load_state(self, snapshot: tuple[str, Any]) -> None:
        name, state = snapshot
        self._current = self._members[name]
        self._current.load_state(state)

    def object_state(self) -> ObjectState:
        """Returns what the suite of the running episode tells."""
        return self._playing().object_state()

    def close(self) -> None:
        for member in self._members.values():
            member.close()
        self._current = None

    def _enter(self, scene: Scene) -> None:
        if not isinstance(scene, Scene):
            raise ValueError(f"the scene must be an envs.Scene, got {type(scene).__name__}")
        if scene.suite not in self._members:
            raise unknown_name("suite of the scene", scene.suite, self._members)
        self._current = self._members[scene.suite]

    def _playing(self) -> ManipulationEnv:
        if self._current is None:
            raise gym.error.ResetNeeded("there is no episode: call reset first")
        return self._current
