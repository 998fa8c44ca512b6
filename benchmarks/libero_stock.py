"""LIBERO's stock environment: the baseline of benchmarks and of the tests of equality."""

from pathlib import Path

import numpy as np

from envs.libero.suites import tasks
from envs.libero.suites.assets import find_assets


class StockEnv:
    """LIBERO's `OffScreenRenderEnv`, driven as SimpleVLA-RL drives it (seed 0, stored state, ten idle steps).

    Args:
        suite: Name of the suite.
        task: Name of the task.
        assets_path: Folder of LIBERO's assets; None: see `envs.libero.suites.assets`.
        **config: Further arguments of `OffScreenRenderEnv`; 256x256 pixels and two cameras by default.
    """

    IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)

    def __init__(self, suite: str, task: str, assets_path: str | Path | None = None, **config):
        from envs.libero import engine
        from envs.libero.suites.initial_states import load_initial_states

        engine.set_assets_path(find_assets(assets_path)[0])
        from libero.libero.envs import OffScreenRenderEnv

        self._states = load_initial_states(suite, task)
        size = {"camera_heights": 256, "camera_widths": 256}
        self.env = OffScreenRenderEnv(bddl_file_name=str(tasks.bddl_file(suite, task)), **(size | config))

    def reset(self, index: int) -> np.ndarray:
        """Starts an episode; returns the policy's frame."""
        random_state = np.random.get_state()
        # The reset frees a render context in whatever GL context is current.
        self._make_context_current()
        self.env.seed(0)
        self.env.reset()
        np.random.set_state(random_state)
        self.env.set_init_state(self._states[index])
        for _ in range(10):
            frame, _ = self.step(self.IDLE)
        return frame

    def step(self, action) -> tuple[np.ndarray, bool]:
        """Executes one action; returns the policy's frame and whether the goal holds."""
        self._make_context_current()
        self.observation, _, done, _ = self.env.step(list(action))
        return self.observation["agentview_image"][::-1, ::-1], bool(done)

    def proprio(self) -> np.ndarray:
        """Returns end-effector position, axis-angle and finger positions of the last observation, float32 [8]."""
        from envs.libero.workspace import axis_angle

        rotation = axis_angle(np.roll(self.observation["robot0_eef_quat"], 1))
        parts = [self.observation["robot0_eef_pos"], rotation, self.observation["robot0_gripper_qpos"]]
        return np.concatenate(parts, dtype=np.float32)

    def state(self) -> np.ndarray:
        """Returns time, qpos and qvel."""
        return self.env.get_sim_state()

    def fixture_poses(self) -> np.ndarray:
        """Returns the poses of all bodies in their parents."""
        model = self.env.sim.model
        return np.concatenate([model.body_pos, model.body_quat], axis=1)

    def close(self) -> None:
        """Frees the simulator."""
        self._make_context_current()
        self.env.close()

    def _make_context_current(self) -> None:
        # robosuite draws into whatever context is current; another renderer may have made its own so.
        self.env.sim._render_context_offscreen.gl_ctx.make_current()
