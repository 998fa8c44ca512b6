"""Makes the stored initial states of `libero_blocks`: `python -m envs.libero.blocks.make_initial_states`.

Each state is drawn with its own seed: objects by LIBERO's placement sampler from the regions of the BDDL
file, the arm's posture with robosuite's noise. States whose objects leave no room for the fingers are
redrawn.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from envs.base import SPLITS
from envs.libero import engine
from envs.libero.blocks import tasks
from envs.libero.blocks.environment import make_robosuite_env

# The open fingers reach 6.5 cm to each side in y, and are 2 cm wide in x.
_FINGER_CLEARANCE_Y, _FINGER_CLEARANCE_X = 0.070, 0.016  # metres beyond the object's own half size
_ARM_NOISE = 0.02  # radians, uniform: moves the gripper by about 1.5 cm
_NUM_SETTLE_STEPS = 15  # control steps
_DECIMALS = 6  # micrometres; keeps the file small
_SEEDS_PER_TASK = 120_000
_SEEDS_PER_KIND = 40_000  # train, eval, demo


def make_initial_states(task: str, split: str, count: int, seed: int = 0) -> np.ndarray:
    """Returns settled states of a task, float64 [count, 1 + nq + nv]: time 0, qpos, zero velocities.

    Args:
        task: Name of the task.
        split: ``"train"`` or ``"eval"``: the stored states; ``"demo"``: fresh ones for demonstrations, from seeds
            that neither split uses.
        count: Number of states.
        seed: Other fresh states for another seed; 0 for the stored ones.
    """
    engine.load_engine()
    from envs.libero.chunk_stepper import FastChunkStepper

    task_id = [info.name for info in tasks.TASKS].index(task)
    noise = {"type": "uniform", "magnitude": _ARM_NOISE}
    env = make_robosuite_env(task, initialization_noise=noise)
    kinds = (*SPLITS, "demo")
    first_seed = (seed * len(tasks.TASKS) + task_id) * _SEEDS_PER_TASK + kinds.index(split) * _SEEDS_PER_KIND
    states = []
    random_state = np.random.get_state()
    try:
        for draw in range(first_seed, first_seed + _SEEDS_PER_KIND):
            np.random.seed(draw)
            env.reset()
            if not _has_clearance(env):
                continue
            states.append(_settle(env, FastChunkStepper(env)))
            if len(states) == count:
                return np.stack(states)
    finally:
        np.random.set_state(random_state)
    raise RuntimeError(f"task {task!r}: only {len(states)} of {count} initial states leave room for the fingers")


def _has_clearance(env: Any) -> bool:
    """Whether the open gripper can go down on each object without touching another one."""
    boxes = [
        (env.sim.data.body_xpos[env.obj_body_id[name]][:2].copy(), model) for name, model in env.objects_dict.items()
    ]
    for i, (position, model) in enumerate(boxes):
        for other_position, other_model in boxes[i + 1 :]:
            gap = np.abs(position - other_position)
            needed = np.array([_FINGER_CLEARANCE_X, _FINGER_CLEARANCE_Y]) + np.maximum(
                model.half_size[:2], other_model.half_size[:2]
            )
            needed[0] += min(model.half_size[0], other_model.half_size[0])
            if (gap < needed).all():
                return False
    return True


def _settle(env: Any, stepper: Any) -> np.ndarray:
    """Lets the objects come to rest, and puts the arm back where it was."""
    data = env.sim.data
    arm = env.robots[0]._ref_joint_pos_indexes + env.robots[0]._ref_gripper_joint_pos_indexes
    posture = data.qpos[arm].copy()
    stepper.reset()
    hold_open = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    for _ in range(_NUM_SETTLE_STEPS):
        stepper.step(hold_open[None])
    qpos = data.qpos.copy()
    qpos[arm] = posture
    return np.concatenate([[0.0], np.round(qpos, _DECIMALS), np.zeros(env.sim.model.nv)])


def main() -> None:
    """Writes the file of initial states."""
    parser = argparse.ArgumentParser(description="Make the stored initial states of libero_blocks.")
    parser.add_argument("--out", type=Path, default=tasks.INITIAL_STATES_FILE, help="file to write (.npz)")
    args = parser.parse_args()
    arrays = {}
    for info in tasks.TASKS:
        for split, count in info.num_scenes.items():
            arrays[f"{info.name}/{split}"] = make_initial_states(info.name, split, count)
    np.savez_compressed(args.out, **arrays)
    print(f"{args.out}: {len(arrays)} sets of initial states, {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
