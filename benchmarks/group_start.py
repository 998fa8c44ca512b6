"""Starting the 8 members of a group: one reset and snapshots, against a reset for each.

Members of a group share their initial state. The simulator is reset once, and every member starts from its snapshot,
loaded when its first action chunk is executed. The baseline is this project's own reset. "stock" is robosuite's soft
reset followed by what LIBERO's `set_init_state` does; both of these observe the camera.
"""

import envs
from benchmarks.measure import Figure, Variant, compare
from benchmarks.scenarios import IMAGE_SIZE, SUITE, training_scenes
from benchmarks.stepping import StockLoop

GROUP_SIZE = 8


def run(quick: bool) -> list[Figure]:
    """Returns the time per group."""
    (scene,) = training_scenes(1)
    stock = StockLoop(scene, every_frame=True)
    env = envs.make_env(SUITE, image_size=IMAGE_SIZE)

    def stock_resets() -> None:
        for _ in range(GROUP_SIZE):
            stock.reset()

    def resets() -> None:
        for _ in range(GROUP_SIZE):
            env.reset(options={"scene": scene})

    def snapshots() -> None:
        env.reset(options={"scene": scene})
        snapshot = env.save_state()
        for _ in range(GROUP_SIZE):
            env.load_state(snapshot)

    try:
        return compare(
            [
                Variant("reset for each member", resets),
                Variant("reset for each member, stock", stock_resets),
                Variant("one reset, a snapshot for each member", snapshots),
            ],
            rounds=3 if quick else 30,
        )
    finally:
        stock.close()
        env.close()
