"""The baseline of the stepping benchmark must do the work that it is timed for."""

import numpy as np

import envs
from benchmarks.scenarios import IMAGE_SIZE, SUITE, training_scenes
from benchmarks.stepping import StockLoop


def test_the_stock_loop_sees_what_the_environment_sees():
    """All in one process, as in the benchmark: several GL contexts in turn."""
    (scene,) = training_scenes(1)
    chunk = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 7))
    stock = [StockLoop(scene, every_frame=every_frame) for every_frame in (True, False)]
    env = envs.make_env(SUITE, image_size=IMAGE_SIZE, stepping="exact")
    for _ in range(2):
        env.reset(options={"scene": scene})
        own = env.step(chunk)[0]["image"].astype(float)
        for loop in stock:
            loop.reset()
            # Shadows, antialiasing and one simulation step of motion apart.
            assert np.abs(loop.step(chunk) - own).mean() < 5
    assert own.std() > 20
    for each in (*stock, env):
        each.close()
