"""The environments of LIBERO's five suites."""

import functools
from typing import Any

import mujoco
import numpy as np

from envs.base import Scene
from envs.libero import engine
from envs.libero.environment import ACTION_DIM, LiberoEnv, robosuite_options
from envs.libero.rendering import RenderStyle
from envs.libero.suites import tasks
from envs.libero.suites.assets import find_assets
from envs.libero.suites.initial_states import load_initial_states
from envs.libero.workspace import Workspace

NUM_SETTLING_STEPS = 10
ARM_NOISE = 0.02  # radians, standard deviation; what LIBERO drew its stored initial states with
# Seeds of generated initial states: no benchmark seeds its resets with such numbers.
FIRST_GENERATED_SEED = 1_000_000
_SEEDS_PER_TASK, _SEEDS_PER_SCENE = 100_000, 100
# A generated state whose goal holds within a second of idling is drawn again: objects may fall onto their goal.
_NUM_PROBE_STEPS = 20


class LiberoSuiteEnv(LiberoEnv):
    """One of LIBERO's suites under the protocol of SimpleVLA-RL and OpenVLA-OFT.

    The fixtures are placed with seed 0, the stored initial state is set, ten idle steps let the objects settle (they
    do not count), the policy sees the agent-view camera rotated by 180 degrees, and success ends the episode within a
    chunk.
    """

    CONFIG_KEYS = (*LiberoEnv.CONFIG_KEYS, "step_limits", "assets_path", "start_cache")
    DEFAULT_STEPPING = "exact"
    # Geom group 2 is visible in robosuite's renderer as well.
    STYLE = RenderStyle(geom_groups=(1, 2), mirrored=True)
    SETTLING_ACTIONS = np.tile([0.0] * (ACTION_DIM - 1) + [-1.0], (NUM_SETTLING_STEPS, 1))

    def __init__(
        self,
        *,
        step_limits: str = "simplevla",
        assets_path: str | None = None,
        start_cache: str | None = "auto",
        **config,
    ):
        """As `LiberoEnv`, and:

        Args:
            step_limits: ``"simplevla"`` (512 control steps) or ``"openvla"`` (220 to 520, by suite).
            assets_path: Folder of LIBERO's asset pack; None: see `envs.libero.suites.assets`.
            start_cache: Folder that keeps the settled starts of scenes; ``"auto"``:
                ``~/.cache/rllib_vla/libero_starts``; None: every start is settled anew.
            **config: Arguments of `LiberoEnv`.

        Raises:
            AssetsError: When the asset pack is not there.
        """
        limit = tasks.step_limit(self.SUITE, step_limits)
        super().__init__(**config)
        if self._limit_override is None:
            self._limit_override = limit
        self._assets, _ = find_assets(assets_path)
        self._start_states = None
        if start_cache is not None:
            from envs.libero.suites.start_states import AUTO, StartStates, default_folder

            self._start_states = StartStates(default_folder() if start_cache == AUTO else start_cache, self.stepping)

    def _make_robosuite_env(self, workspace: str) -> Any:
        engine.set_assets_path(self._assets)
        first = next(info.name for info in self.TASKS if info.workspace == workspace)
        return make_robosuite_env(self.SUITE, first)

    def _problem(self, task: str) -> dict[str, Any]:
        return _parse_problem(self.SUITE, task)

    def _initial_state(self, scene: Scene) -> np.ndarray:
        return load_initial_states(self.SUITE, scene.task)[scene.index]

    def _place(self, scene: Scene, workspace: Workspace) -> np.ndarray:
        if scene.split != "train":
            return super()._place(scene, workspace)
        first_seed = FIRST_GENERATED_SEED + scene.task_id * _SEEDS_PER_TASK + scene.index * _SEEDS_PER_SCENE
        data = workspace.stepper.data
        for seed in range(first_seed, first_seed + _SEEDS_PER_SCENE):
            workspace.reset(seed, ARM_NOISE)
            state = np.concatenate([[0.0], data.qpos, np.zeros_like(data.qvel)])
            if not self._solves_itself(workspace):
                return state
        raise RuntimeError(f"{scene.task}: the goal holds from the start in {_SEEDS_PER_SCENE} drawn initial states")

    def keep_start(self, scene: Scene) -> None:
        """Settles `scene`, if nobody has, and keeps its start on disk; no frame is drawn, no episode begins."""
        self._set_scene(scene)
        self._start(scene, self._workspace())
        self._ended = True

    def _start(self, scene: Scene, workspace: Workspace) -> None:
        from envs.libero.snapshot import restore_snapshot, take_snapshot

        stepper, starts = workspace.stepper, self._start_states
        if starts is None:
            self._settle(scene, workspace)
        elif (start := starts.load(scene, stepper)) is not None:
            restore_snapshot(stepper, start)
        else:
            self._settle(scene, workspace)
            starts.store(scene, stepper, take_snapshot(stepper))

    def _solves_itself(self, workspace: Workspace) -> bool:
        """Whether the goal is reached without doing anything; leaves the simulation as it was."""
        from envs.libero.snapshot import restore_snapshot, take_snapshot

        before = take_snapshot(workspace.stepper)
        idle = self.SETTLING_ACTIONS[:1]
        solved = any(workspace.stepper.step(idle)[1] for _ in range(_NUM_PROBE_STEPS))
        restore_snapshot(workspace.stepper, before)
        return solved


class LiberoSpatialEnv(LiberoSuiteEnv):
    """Ten tasks with the same objects in other arrangements."""

    SUITE = "libero_spatial"
    TASKS = tasks.LIBERO_SPATIAL


class LiberoObjectEnv(LiberoSuiteEnv):
    """Ten tasks with different objects."""

    SUITE = "libero_object"
    TASKS = tasks.LIBERO_OBJECT


class LiberoGoalEnv(LiberoSuiteEnv):
    """Ten tasks with different goals in one scene."""

    SUITE = "libero_goal"
    TASKS = tasks.LIBERO_GOAL


class Libero10Env(LiberoSuiteEnv):
    """Ten long tasks, called LIBERO-Long in papers."""

    SUITE = "libero_10"
    TASKS = tasks.LIBERO_10


class Libero90Env(LiberoSuiteEnv):
    """Ninety tasks in twenty scenes."""

    SUITE = "libero_90"
    TASKS = tasks.LIBERO_90


def make_robosuite_env(suite: str, task: str, **config) -> Any:
    """Returns the robosuite environment of a task (`BDDLBaseDomain`), soft reset, no renderer.

    `engine.set_assets_path` has to have been called.
    """
    engine.load_engine()
    from libero.libero.envs import TASK_MAPPING

    problem_name = _parse_problem(suite, task)["problem_name"]
    env = TASK_MAPPING[problem_name](
        str(tasks.bddl_file(suite, task)),
        robots=["Panda"],
        **robosuite_options(config),
    )
    env.sim.reset = functools.partial(_reset_as_if_compiled, env)
    return env


def _reset_as_if_compiled(env: Any) -> None:
    """Resets the simulation to where LIBERO's hard reset, which compiles the model again, has it.

    Fixtures are back at their places in the XML, and the constraint solver's warm start is that of the two forward
    passes of `_initialize_sim` and of a new render context. The last bits of all that follows depend on it.
    """
    model = env.sim.model
    for body in env.model.worldbody.iter("body"):
        if body.get("name") in {fixture.root_body for fixture in env.fixtures}:
            body_id = model.body_name2id(body.get("name"))
            model.body_pos[body_id] = np.fromstring(body.get("pos", "0 0 0"), sep=" ")
            model.body_quat[body_id] = np.fromstring(body.get("quat", "1 0 0 0"), sep=" ")
    mujoco.mj_resetData(model._model, env.sim.data._data)
    for _ in range(2):
        env.sim.forward()


@functools.cache
def _parse_problem(suite: str, task: str) -> dict[str, Any]:
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    return robosuite_parse_problem(str(tasks.bddl_file(suite, task)))
