"""Records demonstrations of scripted experts as HDF5 files.

    python -m envs.demonstrations --suite bimanual --out demos/bimanual --tasks lift_pot --num-demos 50

One file per task, `<out>/<task>_demo.hdf5`:

| path | content |
|---|---|
| `data` attributes | `problem_info` (JSON), `env_args` (JSON), `num_demos`, `total` (number of samples) |
| `data/demo_<i>` attributes | `num_samples`, `success`, `instruction` |
| `actions` | float64 [T, D], in the simulator's units |
| `states` | float64 [T, S]: simulator state before each action |
| `rewards`, `dones` | uint8 [T]: 1 from the first success on |
| `obs/<camera>` | uint8 [T, H, W, 3]: policy frame before each action |
| `obs/<…>` | float64 [T, …]: the proprioception of the policy |

The names under `obs` are those of the suite's family, see `LAYOUTS`. LIBERO's files are written as LIBERO writes them:
frames are upside down there, and readers rotate them back by 180 degrees.
"""

from __future__ import annotations

import abc
import argparse
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import envs
from envs import base
from envs.base import ManipulationEnv, Scene

MAX_EXPERT_FAILURES = 40  # per task
FILE_SUFFIX = "_demo.hdf5"


@dataclasses.dataclass(frozen=True)
class FileLayout:
    """What a family of suites calls its observations in a file.

    Attributes:
        camera: Frames of the policy's camera, under `obs`.
        rotated: Frames are stored rotated by 180 degrees.
        proprio: Parts of the proprioception under `obs`, in order, with their numbers of dimensions.
        domain: `domain_name` of `problem_info`.
    """

    camera: str
    rotated: bool
    proprio: Mapping[str, int]
    domain: str


# By `Suite.demonstration_layout`.
LAYOUTS = {
    "libero": FileLayout("agentview_rgb", True, {"ee_states": 6, "gripper_states": 2}, "robosuite"),
    "robotwin": FileLayout("head_camera_rgb", False, {"joint_action": 14}, "sapien"),
}


@dataclasses.dataclass
class Demonstration:
    """One recorded episode; see the module's table for the arrays."""

    scene: Scene
    problem_name: str  # LIBERO: of the BDDL problem
    actions: np.ndarray
    states: np.ndarray
    frames: np.ndarray  # uint8 [T, H, W, 3], upright
    proprio: np.ndarray  # float32 [T, P]
    successes: np.ndarray  # bool [T], after each action
    instruction: str = ""  # what the policy was told; empty: the scene's

    @property
    def success(self) -> bool:
        """Whether the goal was reached."""
        return bool(self.successes.any())


class Demonstrator(abc.ABC):
    """What a suite supplies so that its experts can be recorded (`Suite.demonstrator`).

    Its environment has a method `step_beyond_success(action) -> (observation, success)`.

    Attributes:
        EXTRA_STEPS: Control steps recorded after the first success, by default.
    """

    EXTRA_STEPS = 8

    @abc.abstractmethod
    def starts(self, task: str, count: int, seed: int) -> Iterator[tuple[Scene, dict[str, Any]]]:
        """Yields `count` scenes with reset options, none of which starts like a training or evaluation scene."""

    @abc.abstractmethod
    def make_expert(self, env: ManipulationEnv, scene: Scene) -> Any:
        """Returns an object whose `act()` gives the next action [D], for the episode that `env` is in."""

    @abc.abstractmethod
    def state(self, env: ManipulationEnv) -> np.ndarray:
        """Returns the simulator's state, float64 [S]."""

    @abc.abstractmethod
    def wander(self, env: ManipulationEnv, num_steps: int, rng: np.random.Generator) -> np.ndarray:
        """Returns random actions [num_steps, D] that move the arms a little from where they are."""

    @abc.abstractmethod
    def disturb(self, action: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
        """Returns `action` [D] with noise of standard deviation `std` on its motion."""

    def problem_name(self, env: ManipulationEnv) -> str:
        """Returns what `problem_info` calls the problem."""
        return env.scene.task


def expert_suites() -> list[str]:
    """Returns the built-in suites whose tasks have scripted experts."""
    return [name for name in envs.list_suites() if envs.get_suite(name).demonstrator is not None]


def record_demonstration(
    env: ManipulationEnv,
    scene: Scene,
    *,
    options: Mapping[str, Any] | None = None,
    extra_steps: int | None = None,
    action_noise: float = 0.0,
    wander_steps: int = 0,
    rng: np.random.Generator | None = None,
) -> Demonstration:
    """Plays the expert on a scene.

    Args:
        env: Environment of the scene's suite, with a step limit of at least the expert's length.
        scene: What to play.
        options: Further options of `reset`.
        extra_steps: Control steps recorded after the first success: the chunks that lead to it are then
            complete. None: the demonstrator's default.
        action_noise: Standard deviation of Gaussian noise on the executed motion. The recorded action is the expert's
            own, so that the demonstration shows how to come back (DART, Laskey et al. 2017).
        wander_steps: The arms first move up to this many steps (at most a chunk) at random, unrecorded: their position
            then says nothing about where to go, and only the picture does.
        rng: Generator; required when `action_noise` or `wander_steps` is above 0.
    """
    demonstrator = envs.make_demonstrator(scene.suite)
    extra_steps = demonstrator.EXTRA_STEPS if extra_steps is None else extra_steps
    observation, _ = env.reset(options={"scene": scene, **(options or {})})
    if wander_steps > 0 and (num_steps := int(rng.integers(wander_steps + 1))) > 0:
        observation, *_ = env.step(demonstrator.wander(env, num_steps, rng))
    expert = demonstrator.make_expert(env, scene)
    instruction = observation[base.INSTRUCTION]
    actions, states, frames, proprio, successes = [], [], [], [], []
    steps_left = env.max_control_steps
    while steps_left > 0:
        action = expert.act()
        states.append(demonstrator.state(env))
        frames.append(observation[base.IMAGE])
        proprio.append(observation[base.PROPRIO])
        actions.append(action)
        executed = demonstrator.disturb(action, action_noise, rng) if action_noise > 0.0 else action
        observation, success = env.step_beyond_success(executed)
        steps_left -= 1
        if success and not any(successes):
            steps_left = extra_steps
        successes.append(success)
    arrays = map(np.stack, (actions, states, frames, proprio))
    return Demonstration(scene, demonstrator.problem_name(env), *arrays, np.array(successes), instruction)


def write_demonstrations(path: Path, demonstrations: list[Demonstration], env_args: dict) -> None:
    """Writes the demonstrations of one task; a file that is complete or not there at all."""
    import h5py

    scene = demonstrations[0].scene
    layout = LAYOUTS[envs.get_suite(scene.suite).demonstration_layout]
    partial = path.with_name(path.name + ".partial")
    with h5py.File(partial, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps(
            {
                "problem_name": demonstrations[0].problem_name,
                "domain_name": layout.domain,
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
            group.attrs["instruction"] = demo.instruction or demo.scene.instruction
            reached = np.maximum.accumulate(demo.successes).astype(np.uint8)
            group["actions"] = demo.actions
            group["states"] = demo.states
            group["rewards"] = reached
            group["dones"] = reached
            frames = demo.frames[:, ::-1, ::-1] if layout.rotated else demo.frames
            group.create_dataset(f"obs/{layout.camera}", data=frames, compression="gzip", compression_opts=1)
            start = 0
            for name, width in layout.proprio.items():
                group[f"obs/{name}"] = demo.proprio[:, start : start + width].astype(np.float64)
                start += width
    os.replace(partial, path)


def record_task(
    env: ManipulationEnv,
    suite: str,
    task: str,
    num_demos: int,
    seed: int,
    *,
    extra_steps: int | None = None,
    action_noise: float = 0.0,
    wander_steps: int = 0,
) -> tuple[list[Demonstration], int]:
    """Records `num_demos` successful demonstrations of a task.

    Each one starts from a fresh initial state, drawn like the training ones but from other seeds: it is neither in
    the training nor in the evaluation split.

    Returns:
        The demonstrations, and the number of episodes in which the expert failed.

    Raises:
        RuntimeError: When the expert fails more than `MAX_EXPERT_FAILURES` times.
    """
    rng = np.random.default_rng([seed, envs.list_scenes(suite, "train", [task])[0].task_id])
    demonstrations: list[Demonstration] = []
    num_failures = 0
    for scene, options in envs.make_demonstrator(suite).starts(task, num_demos + MAX_EXPERT_FAILURES, seed):
        demo = record_demonstration(
            env,
            scene,
            options=options,
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
    parser = argparse.ArgumentParser(prog="python -m envs.demonstrations", description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="libero_blocks", choices=expert_suites())
    parser.add_argument("--out", type=Path, required=True, help="directory for <task>_demo.hdf5 files")
    parser.add_argument("--tasks", nargs="+", help="names of tasks (default: all of the suite)")
    parser.add_argument("--num-demos", type=int, default=50, help="successful demonstrations per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--extra-steps", type=int, help="control steps recorded after the success (default: by suite)")
    parser.add_argument("--action-noise", type=float, default=0.0, help="std of noise on executed actions")
    parser.add_argument(
        "--wander-steps", type=int, default=0, help="most random steps before the expert, up to a chunk"
    )
    parser.add_argument("--image-size", type=int, default=96, help="height and width of frames in pixels")
    parser.add_argument("--config", type=json.loads, default={}, help="further settings of the environment, as JSON")
    args = parser.parse_args(argv)
    if args.num_demos < 1 or min(args.extra_steps or 0, args.action_noise, args.wander_steps) < 0:
        parser.error("--num-demos must be at least 1, --extra-steps, --action-noise and --wander-steps at least 0")
    env_config = {"image_size": args.image_size, **args.config}
    try:
        scenes = envs.list_scenes(args.suite, "train", args.tasks)
        env = envs.make_env(args.suite, **env_config)
    except ValueError as error:
        parser.error(str(error))
    if args.wander_steps > env.chunk_size:
        parser.error(f"--wander-steps must be at most {env.chunk_size}, the environment's chunk size")
    args.out.mkdir(parents=True, exist_ok=True)
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
        path = args.out / f"{task}{FILE_SUFFIX}"
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
