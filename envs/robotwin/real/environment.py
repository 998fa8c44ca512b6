"""Environments on a user's RoboTwin checkout; the simulation runs in a process of its own."""

from __future__ import annotations

import os
import shutil
import string
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gymnasium as gym
import numpy as np

from envs import base
from envs.base import ManipulationEnv, Scene, TaskInfo, check_scene, unknown_name
from envs.robotwin.real import tasks
from envs.robotwin.real.checkout import find_assets, find_checkout, make_view
from envs.robotwin.real.process import SimulatorProcess, SimulatorProcessError, SimulatorRefusedError, child_command
from envs.robotwin.real.robotwin_child.protocol import Message
from envs.robotwin.real.robotwin_child.rendering import RENDER_MODES
from envs.robotwin.real.seeds import MAX_SCENES
from envs.robotwin.real.wordings import draw_wording

ACTION_DIM = 14  # left joints 6 (rad), left gripper (0 closed, 1 open), right joints 6, right gripper
FRAME_SHAPE = (240, 320, 3)  # D435 head camera
RESET_OPTIONS = ("scene", "seed")
EXECUTIONS = ("chunk", "action")
_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " "
VULKAN_HINT = (
    "RoboTwin needs a Vulkan driver that SAPIEN can render with. On a GPU: NVIDIA's driver with its Vulkan part. "
    "Without a GPU: apt-get install mesa-vulkan-drivers, version 23 or newer (Debian 12: from bookworm-backports, as "
    "`make vulkan` does; docs/robotwin.md)"
)


class SceneUnstableError(RuntimeError):
    """None of the seeds of a scene could be set up: its objects do not come to rest."""


class RoboTwinEnv(ManipulationEnv):
    """Plays all scenes of one version of RoboTwin; see `ManipulationEnv` for the interface.

    The simulator process is started by the first `reset`, and started anew by the `reset` after a failure. A running
    episode cannot be saved: RoboTwin keeps state in Python objects that nobody can copy.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}
    supports_snapshots = False
    CONFIG_KEYS = (
        "robotwin_root",
        "robotwin_assets",
        "robotwin_python",
        "seeds_path",
        "unverified_seeds",
        "num_train_seeds",
        "step_limits",
        "max_control_steps",
        "chunk_size",
        "instructions",
        "execution",
        "render",
        "setup_timeout_s",
        "step_timeout_s",
        "close_timeout_s",
    )
    # Set by subclasses.
    SUITE: str
    VERSION: int

    def __init__(
        self,
        *,
        robotwin_root: str | None = None,
        robotwin_assets: str | None = None,
        robotwin_python: str | None = None,
        seeds_path: str | None = None,
        unverified_seeds: bool = False,
        num_train_seeds: int = MAX_SCENES["train"],
        step_limits: str = "simplevla",
        max_control_steps: int | None = None,
        chunk_size: int = 25,
        instructions: str | None = None,
        execution: str = "chunk",
        render: str = "auto",
        setup_timeout_s: float = 360.0,
        step_timeout_s: float = 120.0,
        close_timeout_s: float = 20.0,
    ):
        """Checks checkout and assets; no process is started yet.

        Args:
            robotwin_root: Folder of the checkout; None: see `envs.robotwin.real.checkout`.
            robotwin_assets: Folder of the assets; None: likewise.
            robotwin_python: Interpreter with RoboTwin's packages; None: this one, with stand-ins for what is missing.
            seeds_path: Folder with seed lists, or one list; None: `seeds` in the checkout. See `SeedLists`.
            unverified_seeds: Where a task has no list, use seeds that nobody has tried.
            num_train_seeds: Largest number of training scenes of a task.
            step_limits: ``"simplevla"`` (the paper's) or ``"robotwin"`` (the benchmark's own, larger).
            max_control_steps: Overrides the step limit of all tasks.
            chunk_size: Largest number of actions in one `step` call.
            instructions: How tasks are worded, see the suites.
            execution: ``"chunk"``: one time-parametrised motion through all actions of a chunk, as SimpleVLA-RL.
                ``"action"``: one motion per action, as RoboTwin's own evaluation.
            render: ``"rt"`` (ray tracing as RoboTwin sets it), ``"raster"``, or ``"auto"``: ray tracing on a GPU.
            setup_timeout_s: Seconds that starting the process, and setting up a scene, may each take.
            step_timeout_s: Seconds that a chunk may take.
            close_timeout_s: Seconds that closing may take.

        Raises:
            CheckoutError: Checkout or assets are missing.
            SeedsError: `seeds_path` is not usable.
            ValueError: For an argument out of range, or a file of instructions that cannot be read.
        """
        for key, value, valid in (
            ("execution", execution, EXECUTIONS),
            ("render", render, RENDER_MODES),
            ("step_limits", step_limits, tasks.STEP_LIMITS),
        ):
            if value not in valid:
                raise unknown_name(f"value of {key}", value, valid)
        for key, value in (
            ("chunk_size", chunk_size),
            ("num_train_seeds", num_train_seeds),
            ("max_control_steps", 1 if max_control_steps is None else max_control_steps),
        ):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{key} must be a positive integer, got {value!r}")
        for key, value in (
            ("setup_timeout_s", setup_timeout_s),
            ("step_timeout_s", step_timeout_s),
            ("close_timeout_s", close_timeout_s),
        ):
            if not value > 0:
                raise ValueError(f"{key} must be positive, got {value!r}")
        self._checkout = find_checkout(self.VERSION, robotwin_root)
        self._assets = find_assets(self._checkout, robotwin_assets)
        self._python = _existing_interpreter(robotwin_python)
        listing = {
            "robotwin_root": robotwin_root,
            "seeds_path": seeds_path,
            "unverified_seeds": unverified_seeds,
            "num_train_seeds": num_train_seeds,
            "step_limits": step_limits,
            "instructions": instructions,
        }
        self._seeds = tasks.make_seed_lists(self._checkout, listing)
        self._tasks: dict[str, TaskInfo] = {info.name: info for info in tasks.list_tasks(self.VERSION, listing)}
        self.chunk_size, self.action_dim = int(chunk_size), ACTION_DIM
        self._limit_override = max_control_steps
        self._instructions = instructions
        self._as_chunk = execution == "chunk"
        self._render_mode = render
        self._setup_timeout_s, self._step_timeout_s = setup_timeout_s, step_timeout_s
        self._close_timeout_s = close_timeout_s
        self._process: SimulatorProcess | None = None
        self._report: dict[str, Any] = {}
        self._scene: Scene | None = None
        self._observation: dict[str, Any] = {}
        self._num_steps, self._ended = 0, True
        characters = frozenset(_CHARACTERS).union(*(text for i in self._tasks.values() for text in i.all_instructions))
        self.observation_space = gym.spaces.Dict(
            {
                base.IMAGE: gym.spaces.Box(0, 255, FRAME_SHAPE, np.uint8),
                base.PROPRIO: gym.spaces.Box(-np.inf, np.inf, (ACTION_DIM,), np.float32),
                base.INSTRUCTION: gym.spaces.Text(max_length=1024, charset=characters),
            }
        )
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (self.chunk_size, ACTION_DIM), np.float32)

    # --- interface -----------------------------------------------------------------------------------------

    @property
    def max_control_steps(self) -> int:
        if self._limit_override is not None:
            return int(self._limit_override)
        if self._scene is None:
            raise gym.error.ResetNeeded("no scene yet: call reset first")
        return self._tasks[self._scene.task].max_control_steps

    @property
    def report(self) -> dict[str, Any]:
        """What the running process said of itself: versions, Vulkan device, stand-ins. Empty before the first reset."""
        return self._report

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Starts an episode.

        Args:
            seed: Seeds the choice of a training scene when `options` names none.
            options: ``{"scene": Scene}``; ``"seed"`` (int) replaces the seed that the scene stands for.

        Returns:
            Observation, and `{"scene": Scene, "seed": int}`: the seed that RoboTwin was set up with.

        Raises:
            SceneUnstableError: RoboTwin cannot set up any seed of the scene.
            SimulatorProcessError: The simulator process failed twice in a row.
            ValueError: For a scene that the suite does not have, or an unknown option.
        """
        super().reset(seed=seed)
        options = options or {}
        for key in options:
            if key not in RESET_OPTIONS:
                raise unknown_name("reset option", key, RESET_OPTIONS)
        scene = options.get("scene") or self._random_scene()
        check_scene(scene, self.SUITE, list(self._tasks.values()))
        self._ended = True
        unstable = []
        candidates = self._seeds.candidates(scene.task, scene.split, scene.index)
        for candidate in candidates if options.get("seed") is None else [int(options["seed"])]:
            try:
                reply = self._set_up(scene, candidate)
            except SimulatorRefusedError as error:
                if error.name != "UnStableError":
                    self._reraise(error)
                unstable.append(candidate)
                continue
            instruction = reply.fields["instruction"]
            if instruction is None:  # RoboTwin 1.0 has none of its own
                instruction = draw_wording(self._tasks[scene.task].all_instructions, candidate)
            self._observation = _observation(reply, instruction)
            self._scene, self._num_steps, self._ended = scene, 0, False
            return dict(self._observation), {"scene": scene, "seed": candidate}
        raise SceneUnstableError(
            f"RoboTwin cannot set up {scene.task} with seed {', '.join(map(str, unstable))}: objects do not come to "
            "rest. Seed lists belong to the assets they were made with"
        )

    def step(self, chunk):
        """Executes up to `chunk_size` actions, [n, 14]; see `ManipulationEnv`.

        With `execution="chunk"` the actions of a chunk blend into one motion, so that they count as executed together
        even if the goal is reached on the way.

        Raises:
            gymnasium.error.ResetNeeded: When no episode is running.
            SimulatorProcessError: The simulator process died, hung, or raised; the episode is lost.
            ValueError: For a chunk of a wrong shape or with a value that is not finite.
        """
        if self._ended:
            raise gym.error.ResetNeeded("the episode has ended: call reset first")
        actions = self._check_chunk(chunk)[: self.max_control_steps - self._num_steps]
        self._ended = True  # also if the process fails now
        message = Message("step", {"as_chunk": self._as_chunk}, {"actions": actions})
        reply = self._process.request(message, self._step_timeout_s)
        success = reply.fields["success"]
        self._num_steps += reply.fields["num_steps"]
        truncated = not success and (reply.fields["over"] or self._num_steps >= self.max_control_steps)
        self._ended = success or truncated
        self._observation = _observation(reply, self._observation[base.INSTRUCTION])
        info = {
            base.NUM_CONTROL_STEPS: reply.fields["num_steps"],
            base.SUCCESS: success,
            base.PHYSICS_TIME_S: reply.fields["physics_time_s"],
            base.RENDER_TIME_S: reply.fields["render_time_s"],
        }
        return dict(self._observation), float(success), success, truncated, info

    def render(self) -> np.ndarray:
        """Returns the policy camera's latest frame, uint8 [240, 320, 3]."""
        if self._scene is None:
            raise gym.error.ResetNeeded("there is nothing to render: call reset first")
        return self._observation[base.IMAGE]

    def close(self) -> None:
        if self._process is not None:
            self._process.close(self._close_timeout_s)
        self._process, self._scene, self._ended = None, None, True

    def try_expert(self, task: str, seed: int) -> tuple[str, str]:
        """Lets RoboTwin's scripted expert solve a seed.

        Returns:
            One of `robotwin_child.main.OUTCOMES`, and what went wrong.
        """
        self._ended = True
        try:
            self._ensure_process()
            message = Message("expert", {"task": task, "seed": seed})
            fields = self._process.request(message, self._setup_timeout_s).fields
        except SimulatorRefusedError:
            raise
        except SimulatorProcessError as error:
            return "setup_demo_fail", str(error).splitlines()[0]
        return fields["outcome"], fields["detail"]

    def start_process(self) -> dict[str, Any]:
        """Starts the simulator process if none is running, and returns its report."""
        self._ensure_process()
        return self._report

    # --- internals -----------------------------------------------------------------------------------------

    def _set_up(self, scene: Scene, seed: int) -> Message:
        """Sets up a seed; once more in a new process if the old one fails, as aborts in C code need not come again."""
        message = Message("reset", {"task": scene.task, "seed": seed, "instructions": self._instructions})
        try:
            self._ensure_process()
            return self._process.request(message, self._setup_timeout_s)
        except SimulatorRefusedError:
            raise
        except SimulatorProcessError:
            self._ensure_process()
            return self._process.request(message, self._setup_timeout_s)

    def _ensure_process(self) -> None:
        if self._process is not None and self._process.is_alive:
            return
        if self._process is not None:
            self._process.kill()  # it is gone, but not what it may have started
        view = make_view(self._checkout, self._assets)
        process = SimulatorProcess(
            child_command(self._python),
            environment={"PYTHONDONTWRITEBYTECODE": "1"},  # else it would write into the checkout
            cwd=view,
        )
        self._process = process
        fields = {"root": str(view), "version": self.VERSION, "render": self._render_mode, **self._start_fields()}
        try:
            self._report = process.start(Message("start", fields), self._setup_timeout_s)
        except SimulatorRefusedError as error:
            process.kill()
            self._reraise(error)

    def _reraise(self, error: SimulatorRefusedError) -> NoReturn:
        """Raises what to tell of an error: for what users can mend, what to do."""
        if error.name == "VulkanError":
            raise SimulatorProcessError(f"{VULKAN_HINT}. SAPIEN says: {error.message}") from error
        if error.name in ("ModuleNotFoundError", "ImportError"):
            raise SimulatorProcessError(
                f"RoboTwin cannot be imported with {self._python or 'this interpreter'}: {error.message}. Run: pip "
                "install --no-deps -r requirements-robotwin.txt, or set env_config's 'robotwin_python'"
            ) from error
        raise error

    def _start_fields(self) -> dict[str, Any]:
        return {}

    def _random_scene(self) -> Scene:
        playable = [info for info in self._tasks.values() if info.num_scenes["train"]]
        if not playable:
            raise ValueError(self._seeds.missing_message(next(iter(self._tasks))))
        info = playable[int(self.np_random.integers(len(playable)))]
        index = int(self.np_random.integers(info.num_scenes["train"]))
        return Scene(self.SUITE, info.name, info.task_id, info.instruction, "train", index)


def _observation(reply: Message, instruction: str) -> dict[str, Any]:
    return {
        base.IMAGE: reply.arrays["image"],
        base.PROPRIO: reply.arrays["proprio"],
        base.INSTRUCTION: instruction,
    }


def _existing_interpreter(python: str | os.PathLike | None) -> str | None:
    """Returns the path of an interpreter. ValueError if there is none."""
    if python is None:
        return None
    found = shutil.which(str(Path(python).expanduser()))
    if found is None:
        raise ValueError(f"robotwin_python is {str(python)!r}, which is no program that can be run")
    return found
