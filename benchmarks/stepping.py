"""A chunk of 8 control steps and one policy frame on libero_blocks.

The baseline is what LIBERO users run: robosuite's `env.step` in a loop, with a camera observation after every control
step and robosuite's own drawing style. The second row leaves out these frames but keeps robosuite's loop, so that it
shows how much of the gain is rendering and how much is stepping. All variants execute the same actions from the same
initial state.
"""

from typing import Any

import numpy as np

import envs
from benchmarks.measure import Figure, Variant, compare
from benchmarks.scenarios import IMAGE_SIZE, SUITE
from envs.base import Scene

CHUNK_SIZE = 8
_TASK = "put_red_cube_on_plate"  # 80 control steps: ten chunks without a reset


def run(quick: bool) -> list[Figure]:
    """Returns the time per chunk."""
    num_chunks, rounds = (2, 2) if quick else (8, 15)
    scene = envs.list_scenes(SUITE, "train", [_TASK])[0]
    # An open gripper cannot solve the task by chance, which would cut a chunk short.
    chunks = np.random.default_rng(0).uniform(-0.5, 0.5, (num_chunks, CHUNK_SIZE, 7))
    chunks[..., 6] = -1.0
    stock = [StockLoop(scene, every_frame=True), StockLoop(scene, every_frame=False)]
    ours = {stepping: envs.make_env(SUITE, image_size=IMAGE_SIZE, stepping=stepping) for stepping in ("exact", "fast")}

    def play(env: Any) -> None:
        for chunk in chunks:
            env.step(chunk)

    variants = [
        Variant("env.step loop, a frame per step", lambda: play(stock[0]), stock[0].reset),
        Variant("env.step loop, a frame per chunk", lambda: play(stock[1]), stock[1].reset),
    ]
    for stepping, env in ours.items():
        variants.append(
            Variant(
                f"{stepping} stepper, a frame per chunk",
                lambda env=env: play(env),
                lambda env=env: env.reset(options={"scene": scene}),
            )
        )
    try:
        return compare(variants, rounds=rounds, amount=num_chunks)
    finally:
        for env in (*stock, *ours.values()):
            env.close()


class StockLoop:
    """robosuite's environment, stepped as LIBERO's `OffScreenRenderEnv` steps it.

    Args:
        scene: Where episodes start.
        every_frame: Observe the policy camera after every control step, through robosuite; otherwise draw one frame
            per chunk with this project's renderer.
    """

    def __init__(self, scene: Scene, *, every_frame: bool):
        from envs.libero.blocks.environment import load_initial_states, make_robosuite_env
        from envs.libero.rendering import LIGHT_STYLE, FrameRenderer

        self._state = load_initial_states()[f"{scene.task}/{scene.split}"][scene.index]
        camera = {
            "use_camera_obs": True,
            "has_offscreen_renderer": True,
            "camera_names": ["agentview"],
            "camera_heights": IMAGE_SIZE,
            "camera_widths": IMAGE_SIZE,
        }
        self._env = make_robosuite_env(scene.task, **(camera if every_frame else {}))
        self._env.reset()
        self._renderer = None
        if not every_frame:
            sim = self._env.sim
            self._renderer = FrameRenderer(sim.model._model, sim.data._data, IMAGE_SIZE, LIGHT_STYLE)

    def reset(self) -> None:
        """Starts an episode as LIBERO's `set_init_state` does."""
        env = self._env
        self._make_context_current()
        env.reset()
        env.sim.set_state_from_flattened(self._state)
        env.sim.forward()
        env._check_success()
        env._post_process()
        env._update_observables(force=True)

    def step(self, chunk: np.ndarray) -> np.ndarray:
        """Executes a chunk [n, 7] and returns the policy's frame, upright, uint8 [H, W, 3]."""
        self._make_context_current()
        for action in chunk:
            observation, *_ = self._env.step(action)
        if self._renderer is None:
            return observation["agentview_image"][::-1]
        return self._renderer.render("agentview", IMAGE_SIZE)

    def close(self) -> None:
        """Frees the simulator."""
        self._make_context_current()
        if self._renderer is not None:
            self._renderer.close()
        self._env.close()

    def _make_context_current(self) -> None:
        # robosuite draws into whatever GL context is current; beside other renderers that gives noise.
        if self._renderer is None:
            self._env.sim._render_context_offscreen.gl_ctx.make_current()
