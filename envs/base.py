"""The contract of every environment: scenes, tasks and the chunked manipulation environment."""

import abc
import dataclasses
import difflib
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

SPLITS = ("train", "eval")

# Keys of an observation.
IMAGE = "image"  # uint8 [H, W, 3], policy camera, upright
PROPRIO = "proprio"  # float32 [P]
INSTRUCTION = "instruction"  # str

# Keys of the `info` dict that `step` returns.
NUM_CONTROL_STEPS = "num_control_steps"  # int, control steps executed by this call
SUCCESS = "success"  # bool
PHYSICS_TIME_S = "physics_time_s"  # float, wall seconds spent on simulation and success checks
RENDER_TIME_S = "render_time_s"  # float, wall seconds spent on the observation

INSTRUCTION_SPACE = gym.spaces.Text(max_length=256, charset=string.ascii_letters + string.digits + " ,.-'")


class UnavailableError(RuntimeError):
    """A suite needs something that is not on this machine; the message says what, and what to do."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One initial condition of one task: plain data, hashable, picklable, independent of any simulator.

    Attributes:
        suite: Name of the suite, e.g. ``"libero_blocks"``.
        task: Name of the task within the suite, e.g. ``"lift_red_cube"``.
        task_id: Index of the task within the suite.
        instruction: What the policy is told, e.g. ``"lift the red cube"``.
        split: ``"train"`` or ``"eval"``, which never share an initial state, or another one that the suite has
            (LIBERO's ``"reference"`` repeats the states of ``"eval"``).
        index: Index of the initial state within the split.
    """

    suite: str
    task: str
    task_id: int
    instruction: str
    split: str
    index: int


@dataclasses.dataclass(frozen=True)
class TaskInfo:
    """What is known about a task without a simulator.

    Attributes:
        name: Name within the suite.
        task_id: Index within the suite.
        instruction: Natural-language instruction.
        max_control_steps: Step limit in control steps (20 Hz in LIBERO).
        num_scenes: Number of initial states in each split.
        workspace: Tasks of one workspace share all objects and differ by their goal only.
        wordings: Every instruction that an observation of this task may carry, if the environment varies it; empty:
            `instruction` only.
        hint: What to do if the task has no scenes.
    """

    name: str
    task_id: int
    instruction: str
    max_control_steps: int
    num_scenes: Mapping[str, int] = dataclasses.field(hash=False)
    workspace: str
    wordings: tuple[str, ...] = ()
    hint: str = ""

    @property
    def all_instructions(self) -> tuple[str, ...]:
        """`instruction` and its other wordings."""
        return tuple(dict.fromkeys((self.instruction, *self.wordings)))


@dataclasses.dataclass(frozen=True)
class Suite:
    """Where the parts of a benchmark suite are; nothing is imported until it is needed.

    Attributes:
        name: Name of the suite, or ``"module:ATTRIBUTE"`` of this object if it is not built in.
        tasks: ``"module:ATTRIBUTE"`` of its sequence of `TaskInfo`, or of a function that returns it for a mapping of
            the environment's settings.
        env_class: ``"module:Class"`` of its `ManipulationEnv`, which lists its arguments in `CONFIG_KEYS`.
        gym_id: Gymnasium id.
        gripper_convention: ``"libero"`` if the last action dimension is a gripper with -1 = open and +1 = closed;
            None if actions go to the simulator as the policy's statistics give them.
        demonstrator: ``"module:Class"`` of its `envs.demonstrations.Demonstrator`; None if it has no scripted experts.
        demonstration_layout: Name of the layout of demonstration files, see `envs.demonstrations.LAYOUTS`.
        process_memory_gb: What a simulator process takes, without models.
        model_memory_gb: What each model in it takes (`TaskInfo.workspace`); played ones are kept.
        divisible_chunks: A chunk executed in pieces gives the same motion.
        prompt_length: Prompts are padded to at least so many tokens. For suites whose instructions are made from the
            scene: at least the longest prompt. 0: every instruction is in the task table.
    """

    name: str
    tasks: str
    env_class: str
    gym_id: str
    gripper_convention: str | None = None
    demonstrator: str | None = None
    demonstration_layout: str = "libero"
    process_memory_gb: float = 0.5
    model_memory_gb: float = 0.5
    divisible_chunks: bool = True
    prompt_length: int = 0


@dataclasses.dataclass(frozen=True)
class ObjectState:
    """Where the object that a task is about is, and what holds it; privileged, for analysis only.

    Attributes:
        position: Centre, (x, y, z) in metres, z upwards.
        grasped: Whether the fingers of a gripper hold it from opposite sides.
        touched: Whether any part of the robot touches it.
    """

    position: tuple[float, float, float]
    grasped: bool
    touched: bool


class ManipulationEnv(gym.Env[dict[str, Any], np.ndarray], abc.ABC):
    """A manipulation environment that executes whole action chunks.

    `step` takes up to `chunk_size` actions, ends at success or at the step limit of the task, and returns one
    observation: the one that the policy acts on next. The reward is 1.0 on success, else 0.0.

    | `info` key (from `step`) | type | meaning |
    |---|---|---|
    | `num_control_steps` | int | control steps executed by this call |
    | `success` | bool | the goal was reached by this call |
    | `physics_time_s` | float | wall seconds of simulation and success checks |
    | `render_time_s` | float | wall seconds of the observation |

    `reset` returns `{"scene": Scene}` as info. The same scene and the same actions give the same simulator
    states and frames, in whatever process and after whatever other episodes.

    Attributes:
        CONFIG_KEYS: Names of the constructor's keyword arguments: the valid keys of `env_config`.
        observation_space: Dict of `IMAGE`, `PROPRIO` and `INSTRUCTION`.
        action_space: Box of a whole chunk, float32 ``[chunk_size, action_dim]``.
        chunk_size: Largest number of actions in one `step` call.
        action_dim: Number of dimensions of one action.
        supports_snapshots: Whether `save_state` and `load_state` work. Without them, one environment object plays one
            episode at a time, and every trajectory that is played at the same time needs an object of its own.
        observes_end: Whether `step` returns the observation after the end of an episode. No policy acts on it: where it
            is set to False, an environment may return an empty one instead and save a frame.
    """

    CONFIG_KEYS: ClassVar[tuple[str, ...]]
    observation_space: gym.spaces.Dict
    action_space: gym.spaces.Box
    chunk_size: int
    action_dim: int
    supports_snapshots: bool = True
    observes_end: bool = True

    @property
    @abc.abstractmethod
    def max_control_steps(self) -> int:
        """Step limit of the current scene's task, in control steps."""

    def render(self) -> np.ndarray:  # type: ignore[override]  # gymnasium's own result type fits nothing
        """Returns a video frame of the running episode, uint8 [H, W, 3]."""
        raise NotImplementedError(f"{type(self).__name__} draws no video frames")

    def save_state(self) -> Any:
        """Returns a picklable snapshot of the running episode, independent of the environment object."""
        raise NotImplementedError(f"{type(self).__name__} cannot save a running episode")

    def load_state(self, snapshot: Any) -> None:
        """Resumes the episode of `snapshot`; the continuation is bit-identical to the uninterrupted one."""
        raise NotImplementedError(f"{type(self).__name__} cannot resume an episode")

    def object_state(self) -> ObjectState:
        """Returns the state of the object that the current task is about (the first of several).

        Raises:
            NotImplementedError: For a suite that cannot tell.
        """
        raise NotImplementedError(f"{type(self).__name__} does not tell where objects are (`object_state`)")

    def _check_chunk(self, chunk: Any) -> np.ndarray:
        """Returns `chunk` as float64 ``[n, action_dim]``; ValueError for a bad shape or non-finite value."""
        actions = np.asarray(chunk, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != self.action_dim:
            raise ValueError(f"an action chunk has shape [n, {self.action_dim}], got {list(actions.shape)}")
        if not 1 <= len(actions) <= self.chunk_size:
            raise ValueError(f"a chunk holds 1 to {self.chunk_size} actions, got {len(actions)}")
        finite = np.isfinite(actions)
        if not finite.all():
            step, dim = np.argwhere(~finite)[0]
            raise ValueError(f"action {step} of the chunk is not finite: dimension {dim} is {actions[step, dim]}")
        return actions


def check_scene(scene: Any, suite: str, tasks: Sequence[TaskInfo]) -> None:
    """Refuses what is not a scene of `suite`, with a ValueError that says what does not fit."""
    if not isinstance(scene, Scene):
        raise ValueError(f"the scene must be an envs.Scene, got {type(scene).__name__}")
    if scene.suite != suite:
        raise ValueError(f"this environment plays suite {suite!r}, the scene is of {scene.suite!r}")
    names = [info.name for info in tasks]
    if scene.task not in names:
        raise unknown_name(f"task of suite {suite!r}", scene.task, names)
    info = tasks[names.index(scene.task)]
    if scene.task_id != info.task_id:
        raise ValueError(f"task {scene.task!r} has id {info.task_id}, the scene says {scene.task_id}")
    if scene.split not in info.num_scenes:
        raise unknown_name("split", scene.split, info.num_scenes)
    if not 0 <= scene.index < info.num_scenes[scene.split]:
        raise ValueError(
            f"task {scene.task!r} has initial states 0..{info.num_scenes[scene.split] - 1} in split "
            f"{scene.split!r}, the scene asks for {scene.index}"
        )


def draw_training_scene(rng: np.random.Generator, suite: str, tasks: Sequence[TaskInfo], task_id: int | None) -> Scene:
    """Draws a training scene of one task, or of any if `task_id` is None."""
    info = tasks[int(rng.integers(len(tasks))) if task_id is None else task_id]
    index = int(rng.integers(info.num_scenes["train"]))
    return Scene(suite, info.name, info.task_id, info.instruction, "train", index)


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> ValueError:
    """Returns the error for an unknown name, naming the nearest valid one.

    Args:
        kind: What the name stands for, e.g. ``"task"``.
        name: The name that was given.
        valid: All names that would have been accepted.
    """
    valid = list(valid)
    nearest = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"unknown {kind} {name!r}{hint} (valid: {', '.join(valid)})")
