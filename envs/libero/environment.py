"""Chunked environment on LIBERO's engine. A suite is a subclass that supplies problems and initial states."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np

from envs import base, render_devices
from envs.base import Scene, unknown_name
from envs.libero import engine
from envs.libero.rendering import RenderStyle
from envs.libero.workspace import VIDEO_SIZE, Workspace
from envs.suite_env import SuiteEnv, check_at_least

ACTION_DIM = 7  # OSC_POSE: position delta 3, rotation delta 3 (both in [-1, 1]), gripper -1 open / +1 close
PROPRIO_DIM = 8  # end-effector position 3 (m), axis-angle 3 (rad), finger positions 2 (m)
CONTROL_FREQUENCY_HZ = 20
STEPPING_MODES = ("fast", "exact")


class LiberoEnv(SuiteEnv):
    """Plays all scenes of one suite on LIBERO's engine; see `ManipulationEnv` for the interface.

    Actions outside [-1, 1] are clipped by the controller, as in robosuite. The option ``"initial_state"`` of `reset`
    (float64 [1 + nq + nv]: time, qpos, qvel) replaces the scene's stored one.

    Simulators are built when the first scene of their workspace is played, and then kept.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY_HZ}
    CONFIG_KEYS = (
        *("image_size", "chunk_size", "stepping", "max_control_steps", "task_id", "render_mode"),
        "render_device",
    )

    RESET_OPTIONS = ("scene", "initial_state")

    # Set by subclasses, with `SUITE` and `TASKS`.
    CAMERA = "agentview"
    DEFAULT_STEPPING = "exact"
    STYLE = RenderStyle()
    # Executed after a reset before the policy sees anything; they do not count as control steps.
    SETTLING_ACTIONS = np.zeros((0, ACTION_DIM))

    def __init__(
        self,
        *,
        image_size: int = 256,
        chunk_size: int = 8,
        stepping: str | None = None,
        max_control_steps: int | None = None,
        task_id: int | None = None,
        render_mode: str | None = "rgb_array",
        render_device: str | int | Sequence[int] = render_devices.AUTO,
    ):
        """Checks the engine; no simulator is built yet.

        Args:
            image_size: Height and width of the policy's frame in pixels.
            chunk_size: Largest number of actions in one `step` call.
            stepping: ``"exact"`` (bit-identical to robosuite's loop) or ``"fast"``; None takes the
                suite's default.
            max_control_steps: Overrides the step limit of all tasks.
            task_id: `reset` without a scene draws one of this task; None: of any task.
            render_mode: ``"rgb_array"`` or None; `render` works in both.
            render_device: ``"auto"``, ``"gpu"``, ``"software"``, ``"osmesa"``, or numbers of EGL devices, over which
                simulators spread; see `render_devices.choose`.

        Raises:
            EngineError: When the simulator packages are missing or have a wrong version.
            RenderDeviceError: When there is nothing to draw frames with, or not what was asked for.
            ValueError: For an argument out of range.
        """
        engine.load_engine(render_device)
        stepping = stepping or self.DEFAULT_STEPPING
        if stepping not in STEPPING_MODES:
            raise unknown_name("stepping mode", stepping, STEPPING_MODES)
        check_at_least(16, image_size=image_size)
        super().__init__(
            action_dim=ACTION_DIM,
            chunk_size=chunk_size,
            max_control_steps=max_control_steps,
            task_id=task_id,
            render_mode=render_mode,
        )
        self.image_size = int(image_size)
        self.stepping = stepping
        self._workspaces: dict[str, Workspace] = {}
        self.observation_space = gym.spaces.Dict(
            {
                base.IMAGE: gym.spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8),
                base.PROPRIO: gym.spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
                base.INSTRUCTION: base.INSTRUCTION_SPACE,
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.chunk_size, ACTION_DIM), np.float32)

    # --- supplied by a suite -------------------------------------------------------------------------------

    @abc.abstractmethod
    def _make_robosuite_env(self, workspace: str) -> Any:
        """Builds the robosuite environment (`BDDLBaseDomain`) of a workspace, without its own renderer."""

    @abc.abstractmethod
    def _problem(self, task: str) -> dict[str, Any]:
        """Returns the parsed BDDL problem of a task."""

    @abc.abstractmethod
    def _initial_state(self, scene: Scene) -> np.ndarray:
        """Returns the flattened simulator state of a scene, float64 [1 + nq + nv]: time, qpos, qvel."""

    def _place(self, scene: Scene, workspace: Workspace) -> np.ndarray:
        """Resets `workspace`, which places the fixtures, and returns the state of `scene` to be set there."""
        workspace.reset()
        return self._initial_state(scene)

    def _start(self, scene: Scene, workspace: Workspace) -> None:
        """Brings `workspace` to the start of `scene`; a suite may know a faster way than to settle it."""
        self._settle(scene, workspace)

    # --- interface -----------------------------------------------------------------------------------------

    def render(self) -> np.ndarray:
        """Returns the policy camera's view at 256x256 for videos, uint8."""
        if self._scene is None:
            raise gym.error.ResetNeeded("there is nothing to render: call reset first")
        workspace = self._workspace()
        with workspace.stepper.observed_state():
            return workspace.renderer.render(self.CAMERA, VIDEO_SIZE)

    @property
    def render_device(self) -> str:
        """What draws the frames, e.g. ``"egl device 0: llvmpipe (LLVM 15.0.6, 256 bits)"``."""
        return self._workspace().renderer.device

    def close(self) -> None:
        for workspace in self._workspaces.values():
            workspace.close()
        self._workspaces.clear()
        super().close()

    # --- for experts and tools -----------------------------------------------------------------------------

    def object_state(self) -> base.ObjectState:
        """Returns the state of the task's object as the observation shows it; see `ManipulationEnv`.

        Poses and contacts are computed for the present state: what MuJoCo holds of them may be another trajectory's.
        The simulation does not change.
        """
        from envs.libero.object_state import observe_object

        stepper = self._workspace().stepper
        with stepper.observed_state():
            mujoco.mj_collision(stepper.model, stepper.data)
            return observe_object(self.robosuite_env)

    @property
    def robosuite_env(self) -> Any:
        """The robosuite environment of the current scene: privileged state for experts and tools."""
        return self._workspace().env

    # --- internals -----------------------------------------------------------------------------------------

    def _workspace(self) -> Workspace:
        return self._workspaces[self.task.workspace]

    def _enter(self, scene: Scene) -> None:
        """Builds the workspace of `scene` if needed and hands it the goal of its task."""
        name = self.TASKS[scene.task_id].workspace
        if name not in self._workspaces:
            robosuite_env = self._make_robosuite_env(name)
            self._workspaces[name] = Workspace(robosuite_env, self.stepping, self.image_size, self.STYLE)
        self._workspaces[name].enter(scene.task, self._problem(scene.task))

    def _begin(self, options: dict[str, Any]) -> None:
        if options.get("initial_state") is not None:
            self._settle(self.scene, self._workspace(), options["initial_state"])
        else:
            self._start(self.scene, self._workspace())

    def _execute(self, actions: np.ndarray) -> tuple[int, bool]:
        return self._workspace().stepper.step(actions)

    def _save_simulator(self) -> Any:
        from envs.libero.snapshot import take_snapshot

        return take_snapshot(self._workspace().stepper)

    def _load_simulator(self, state: Any) -> None:
        from envs.libero.snapshot import restore_snapshot

        restore_snapshot(self._workspace().stepper, state)

    def _settle(self, scene: Scene, workspace: Workspace, initial_state: Any = None) -> None:
        """Sets the initial state of `scene` (or the given one) and executes the settling actions."""
        placed = self._place(scene, workspace)
        state = placed if initial_state is None else self._check_state(initial_state, placed)
        robosuite_env = workspace.env
        robosuite_env.sim.set_state_from_flattened(state)
        mujoco.mj_forward(workspace.stepper.model, workspace.stepper.data)
        # LIBERO's set_init_state evaluates the goal and updates visual states once.
        robosuite_env._check_success()
        robosuite_env._post_process()
        workspace.stepper.reset()
        for action in self.SETTLING_ACTIONS:
            workspace.stepper.step(action[None])

    def observe(self) -> dict[str, Any]:
        workspace = self._workspace()
        with workspace.stepper.observed_state():
            return {
                base.IMAGE: workspace.renderer.render(self.CAMERA, self.image_size),
                base.PROPRIO: workspace.proprio(),
                base.INSTRUCTION: self._scene.instruction,
            }

    def _check_state(self, state: Any, placed: np.ndarray) -> np.ndarray:
        state = np.asarray(state, dtype=np.float64)
        if state.shape != placed.shape:
            raise ValueError(f"initial_state has shape {list(state.shape)}, this task needs {list(placed.shape)}")
        return state


def robosuite_options(overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that every robosuite environment here is built with: OSC_POSE, soft reset, no renderer.

    `engine.load_engine` has to have been called. `overrides` win.
    """
    from robosuite import load_controller_config

    return {
        "controller_configs": load_controller_config(default_controller="OSC_POSE"),
        "initialization_noise": None,
        "use_camera_obs": False,
        "has_offscreen_renderer": False,
        "control_freq": CONTROL_FREQUENCY_HZ,
        "hard_reset": False,
        "ignore_done": True,
    } | overrides
