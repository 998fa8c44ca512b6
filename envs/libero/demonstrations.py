"""Records demonstrations of scripted experts in LIBERO's HDF5 layout.

    python -m envs.libero.demonstrations --out demos --tasks lift_red_cube lift_blue_cube --num-demos 50

One file per task, `<out>/<task>_demo.hdf5`:

| path | content |
|---|---|
| `data` attributes | `problem_info` (JSON), `env_args` (JSON), `num_demos`, `total` (number of samples) |
| `data/demo_<i>` attributes | `num_samples`, `success` |
| `actions` | float64 [T, 7]: OSC_POSE deltas in [-1, 1], gripper -1 open / +1 close |
| `states` | float64 [T, 1 + nq + nv]: simulator state before each action |
| `rewards`, `dones` | uint8 [T]: 1 from the first success on |
| `obs/agentview_rgb` | uint8 [T, H, W, 3]: policy frame before each action, rotated by 180 degrees |
| `obs/ee_states`, `obs/gripper_states` | float64 [T, 6] and [T, 2]: the proprioception of the policy |

Frames are stored as LIBERO stores them, upside down: readers rotate them back by 180 degrees.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np

import envs
from envs import base
from envs.base import ManipulationEnv, Scene
from envs.libero.blocks.experts import make_expert
from envs.libero.blocks.make_initial_states import make_initial_states

EXPERT_SUITES = ("libero_blocks",)
MAX_EXPERT_FAILURES = 40  # per task
_DRIFT = ((-1.0, -1.0, -0.9), (1.0, 1.0, 0.3))  # lowest and highest commands of x, y, z while wandering


@dataclasses.dataclass
class Demonstration:
    """One recorded episode; see the module's table for the arrays."""

    scene: Scene
    problem_name: str  # of the BDDL problem
    actions: np.ndarray
    states: np.ndarray
    frames: np.ndarray  # uint8 [T, H, W, 3], upright
    proprio: np.ndarray  # float32 [T, 8]
    successes: np.ndarray  # bool [T], after each action

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return bool(self.successes.any())


def record_demonstration(
    env: ManipulationEnv,
    scene: Scene,
    *,
    initial_state: np.ndarray | None = None,
    extra_steps: int = 8,
    action_noise: float = 0.0,
    wander_steps: int = 0,
    rng: np.random.Generator | None = None,
) -> Demonstration:
    """Plays the expert on a scene.

    Args:
        env: Environment of the scene's suite, with a step limit of at least the expert's length.
        scene: What to play.
        initial_state: Where to start instead of the scene's stored state.
        extra_steps: Control steps recorded after the first success: the chunks that lead to it are then
            complete.
        action_noise: Standard deviation of Gaussian noise on the executed position deltas. The recorded
            action is the expert's own, so that the demonstration shows how to come back (DART, Laskey et
            al. 2017).
        wander_steps: The arm first moves up to this many steps (at most a chunk) in a random direction, unrecorded:
            the position of the arm then says nothing about where to go, and only the picture does.
        rng: Generator; required when `action_noise` or `wander_steps` is above 0.
    """
    state = {} if initial_state is None else {"initial_state": initial_state}
    observation, _ = env.reset(options={"scene": scene, **state})
    if wander_steps > 0 and (num_steps := int(rng.integers(wander_steps + 1))) > 0:
        drift = np.zeros((num_steps, env.action_dim))
        drift[:, :3] = rng.uniform(*_DRIFT)
        drift[:, -1] = -1.0  # open
        observation, *_ = env.step(drift)
    robosuite_env = env.robosuite_env
    expert = make_expert(robosuite_env, scene)
    actions, states, frames, proprio, successes = [], [], [], [], []
    steps_left = env.max_control_steps
    while steps_left > 0:
        action = expert.act()
        states.append(robosuite_env.sim.get_state().flatten())
        frames.append(observation[base.IMAGE])
        proprio.append(observation[base.PROPRIO])
        actions.append(action)
        executed = action.copy()
        if action_noise > 0.0:
            executed[:3] = np.clip(executed[:3] + action_noise * rng.standard_normal(3), -1.0, 1.0)
        observation, success = env.step_beyond_success(executed)
        steps_left -= 1
        if success and not any(successes):
            steps_left = extra_steps
        successes.append(success)
    problem_name = robosuite_env.parsed_problem["problem_name"]
    return Demonstration(scene, problem_name, *map(np.stack, (actions, states, frames, proprio)), np.array(successes))


def write_demonstrations(path: Path, demonstrations: list[Demonstration], env_args: dict) -> None:
    """Writes the demonstrations of one task; a file that is complete or not there at all."""
    import h5py

    scene = demonstrations[0].scene
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps(
            {
                "problem_name": demonstrations[0].problem_name,
                "domain_name": "robosuite",
                "language_instruction": scene.instruction,
                "suite": scene.suite,
                "task": scene.task,
            }
        )
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["num_demos"] = len(demonstrations)
        data.attrs["total"] = sum(len(demo.actions) for demo in demonstrations)
        for i, demo in enumerate(demonstrations):
            group = data.create_group(f"demo_{i}")
            group.attrs["num_samples"] = len(demo.actions)
            group.attrs["success"] = demo.success
            reached = np.maximum.accumulate(demo.successes).astype(np.uint8)
            group["actions"] = demo.actions
            group["states"] = demo.states
            group["rewards"] = reached
            group["dones"] = reached
            group.create_dataset(
                "obs/agentview_rgb", data=demo.frames[:, ::-1, ::-1], compression="gzip", compression_opts=1
            )
            group["obs/ee_states"] = demo.proprio[:, :6].astype(np.float64)
            group["obs/gripper_states"] = demo.proprio[:, 6:].astype(np.float64)
    os.replace(partial, path)


def record_task(
    env: ManipulationEnv,
    suite: str,
    task: str,
    num_demos: int,
    seed: int,
    *,
    extra_steps: int = 8,
    action_noise: float = 0.0,
    wander_steps: int = 0,
) -> tuple[list[Demonstration], int]:
    """Records `num_demos` successful demonstrations of a task.

    Each one starts from a fresh initial state, drawn like the stored ones but from other seeds: it is neither in
    the training nor in the evaluation split.

    Returns:
        The demonstrations, and the number of episodes in which the expert failed.

    Raises:
        RuntimeError: When the expert fails more than `MAX_EXPERT_FAILURES` times.
    """
    scene = envs.list_scenes(suite, "train", [task])[0]
    rng = np.random.default_rng([seed, scene.task_id])
    demonstrations: list[Demonstration] = []
    num_failures = 0
    for state in make_initial_states(task, "demo", num_demos + MAX_EXPERT_FAILURES, seed):
        demo = record_demonstration(
            env,
            scene,
            initial_state=state,
            extra_steps=extra_steps,
            action_noise=action_noise,
            wander_steps=wander_steps,
            rng=rng,
        )
        if demo.success:
            demonstrations.append(demo)
        else:
            num_failures += 1
        if len(demonstrations) == num_demos:
            break
    else:
        raise RuntimeError(f"the expert of task {task!r} failed {num_failures} times; lower the action noise")
    return demonstrations, num_failures


def main(argv: list[str] | None = None) -> None:
    """Command line of the recorder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="libero_blocks", choices=EXPERT_SUITES)
    parser.add_argument("--out", type=Path, required=True, help="directory for <task>_demo.hdf5 files")
    parser.add_argument("--tasks", nargs="+", help="names of tasks (default: all of the suite)")
    parser.add_argument("--num-demos", type=int, default=50, help="successful demonstrations per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra-steps", type=int, default=8, help="control steps recorded after the success")
    parser.add_argument("--action-noise", type=float, default=0.0, help="std of noise on executed actions")
    parser.add_argument("--wander-steps", type=int, default=0, help="most random steps before the expert takes over")
    parser.add_argument("--image-size", type=int, default=96, help="height and width of frames in pixels")
    args = parser.parse_args(argv)
    if args.num_demos < 1 or min(args.extra_steps, args.action_noise, args.wander_steps) < 0:
        parser.error("--num-demos must be at least 1, --extra-steps, --action-noise and --wander-steps at least 0")
    try:
        scenes = envs.list_scenes(args.suite, "train", args.tasks)
    except ValueError as error:
        parser.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    env_config = {"image_size": args.image_size}
    env = envs.make_env(args.suite, **env_config)
    for task in dict.fromkeys(scene.task for scene in scenes):
        started = time.monotonic()
        demos, num_failures = record_task(
            env,
            args.suite,
            task,
            args.num_demos,
            args.seed,
            extra_steps=args.extra_steps,
            action_noise=args.action_noise,
            wander_steps=args.wander_steps,
        )
        path = args.out / f"{task}_demo.hdf5"
        write_demonstrations(path, demos, {"suite": args.suite, "env_config": env_config})
        lengths = [int(np.argmax(demo.successes)) + 1 for demo in demos]
        print(
            f"{path}: {len(demos)} demos, {np.mean(lengths):.1f} control steps to success on average, "
            f"{num_failures} expert failures, {time.monotonic() - started:.1f} s",
            flush=True,
        )
    env.close()


if __name__ == "__main__":
    main()
