"""Checks an environment against the contract of `envs.base`: ``python -m envs.contract my_module:SUITE``.

For suites that are being written: training would notice most of these mistakes late, or not at all (an environment that
is not deterministic still trains, on groups that are no groups).
"""

import argparse
import functools
import inspect
import json
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

import envs
from envs.base import (
    IMAGE,
    INSTRUCTION,
    NUM_CONTROL_STEPS,
    PHYSICS_TIME_S,
    PROPRIO,
    RENDER_TIME_S,
    SPLITS,
    SUCCESS,
    ManipulationEnv,
    Scene,
)

_INFO_KEYS = (NUM_CONTROL_STEPS, SUCCESS, PHYSICS_TIME_S, RENDER_TIME_S)
_SCENES_COMPARED = 4  # per split; every one costs a reset


def check_suite(suite: str, **env_config: Any) -> list[str]:
    """Plays a few short random episodes and returns what breaks the contract; an empty list if nothing does.

    Args:
        suite: Name of a suite, or ``"module:ATTRIBUTE"``.
        **env_config: Arguments of its environment class.

    Raises:
        ValueError: The suite or its parts cannot be loaded.
    """
    problems = list(_check_tables(suite, env_config))
    env = envs.make_env(suite, **env_config)
    try:
        problems += _check_declarations(env)
        scenes = [] if problems else [envs.list_scenes(suite, split, env_config=env_config) for split in SPLITS]
        checks: list[Callable[..., Iterator[str]]] = [
            _check_reset,
            functools.partial(_check_scenes, _wordings(suite, env_config)),
        ]
        checks += [_check_step, _check_bad_chunks]
        if env.supports_snapshots:
            checks.append(_check_snapshots)
        for check in () if problems else checks:
            problems += _run(check, env, *scenes)
    finally:
        env.close()
    return problems


def _run(check: Callable[..., Iterator[str]], env: ManipulationEnv, *scenes: list[Scene]) -> list[str]:
    found: list[str] = []
    try:
        found.extend(check(env, *scenes))
    except Exception as error:
        name = getattr(check, "func", check).__name__.removeprefix("_")
        found.append(f"{name}: {type(error).__name__}: {error}")
    return found


def _wordings(suite: str, env_config: dict[str, Any]) -> dict[str, tuple[str, ...]] | None:
    """What each task's observations may say; None for a suite that makes instructions from the scene."""
    if envs.get_suite(suite).prompt_length:
        return None
    return {task.name: task.all_instructions for task in envs.list_tasks(suite, env_config)}


def _check_tables(suite: str, env_config: dict[str, Any]) -> Iterator[str]:
    record, tasks = envs.get_suite(suite), envs.list_tasks(suite, env_config)
    if record.name != suite:
        yield f"Suite.name is {record.name!r}, but the suite is called {suite!r}: workers could not find it"
    for position, task in enumerate(tasks):
        if task.task_id != position:
            yield f"task {task.name!r} has task_id {task.task_id}, its position in the list is {position}"
        if task.max_control_steps < 1:
            yield f"task {task.name!r}: max_control_steps is {task.max_control_steps}"
        if missing := [split for split in SPLITS if not task.num_scenes.get(split)]:
            yield f"task {task.name!r} has no scenes in split {missing[0]!r}"
    if len({task.name for task in tasks}) < len(tasks):
        yield "two tasks have the same name"


def _check_declarations(env: ManipulationEnv) -> Iterator[str]:
    parameters = inspect.signature(type(env).__init__).parameters
    arguments = [name for name in parameters if name != "self"]
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if set(env.CONFIG_KEYS) - set(arguments) and not takes_any:
        yield f"CONFIG_KEYS {env.CONFIG_KEYS} are not the constructor's arguments {tuple(arguments)}"
    space = env.observation_space
    if not isinstance(space, gym.spaces.Dict) or set(space) != {IMAGE, PROPRIO, INSTRUCTION}:
        yield f"observation_space must be a Dict of {IMAGE}, {PROPRIO} and {INSTRUCTION}"
        return
    image, proprio = space[IMAGE], space[PROPRIO]
    if image.dtype != np.uint8 or len(_shape(image)) != 3 or _shape(image)[2] != 3:
        yield f"observation_space[{IMAGE!r}] must be uint8 [H, W, 3], it is {image.dtype} {_shape(image)}"
    if proprio.dtype != np.float32 or len(_shape(proprio)) != 1:
        yield f"observation_space[{PROPRIO!r}] must be float32 [P], it is {proprio.dtype} {_shape(proprio)}"
    action = env.action_space
    if action.dtype != np.float32 or action.shape != (env.chunk_size, env.action_dim):
        wanted = f"float32 {[env.chunk_size, env.action_dim]} (chunk_size, action_dim)"
        yield f"action_space must be {wanted}, it is {action.dtype} {_shape(action)}"


def _shape(space: gym.Space[Any]) -> list[int]:
    return list(space.shape or ())  # spaces like Text and Dict have none


def _check_reset(env: ManipulationEnv, train: list[Scene], held_out: list[Scene]) -> Iterator[str]:
    first, info = env.reset(options={"scene": train[0]})
    if info.get("scene") != train[0]:
        yield "reset must return {'scene': scene} as info"
    if not env.observation_space.contains(first):
        yield "the first observation is not in observation_space (shape, dtype or bounds)"
    env.step(_chunks(env, 1)[0])
    env.reset(options={"scene": held_out[-1]})
    again, _ = env.reset(options={"scene": train[0]})
    if not _equal(first, again):
        yield "the same scene gives another observation after another episode: reset must depend on the scene alone"


def _check_scenes(
    wordings: dict[str, tuple[str, ...]] | None, env: ManipulationEnv, train: list[Scene], held_out: list[Scene]
) -> Iterator[str]:
    seen: dict[tuple[str, bytes, bytes], Scene] = {}
    for scene in train[:_SCENES_COMPARED] + held_out[:_SCENES_COMPARED]:
        observation, _ = env.reset(options={"scene": scene})
        text = observation[INSTRUCTION]
        if wordings is not None and text not in wordings[scene.task]:
            yield f"the instruction of {scene.task} {scene.index} is {text!r}, which its TaskInfo does not have"
        start = scene.task, observation[IMAGE].tobytes(), observation[PROPRIO].tobytes()
        twin = seen.setdefault(start, scene)
        if twin.split != scene.split:
            yield f"held-out scene {scene.task} {scene.index} starts like training scene {twin.task} {twin.index}"


def _check_step(env: ManipulationEnv, train: list[Scene], held_out: list[Scene]) -> Iterator[str]:
    env.reset(options={"scene": train[0]})
    limit, total, done = env.max_control_steps, 0, False
    for chunk in _chunks(env, limit + 1):
        observation, reward, terminated, truncated, info = env.step(chunk)
        if missing := [key for key in _INFO_KEYS if key not in info]:
            yield f"info of step lacks {', '.join(missing)}"
            return
        total += info[NUM_CONTROL_STEPS]
        if not 1 <= info[NUM_CONTROL_STEPS] <= env.chunk_size:
            yield f"{NUM_CONTROL_STEPS} of a step is {info[NUM_CONTROL_STEPS]}, a chunk has {env.chunk_size} actions"
        if not reward == float(info[SUCCESS]) == float(terminated):
            yield f"reward {reward}, terminated {terminated} and success {info[SUCCESS]} must mean the same"
        if truncated and (terminated or total < limit):
            yield f"truncated after {total} of {limit} control steps, success {terminated}: only failures at the limit"
        if not env.observation_space.contains(observation):
            yield "an observation of step is not in observation_space"
        if done := terminated or truncated:
            break
        if total >= limit:
            yield f"{total} control steps were executed, the limit is {limit}"
            break
    if not done:
        yield "the episode did not end at max_control_steps"
    frame: Any = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        yield "render must return uint8 [H, W, 3]"


def _check_snapshots(env: ManipulationEnv, train: list[Scene], held_out: list[Scene]) -> Iterator[str]:
    env.reset(options={"scene": train[0]})
    before, after, other = _chunks(env, 3)
    if any(env.step(before)[2:4]):
        return  # over after one chunk: nothing to continue
    snapshot = pickle.loads(pickle.dumps(env.save_state()))
    uninterrupted = env.step(after)
    for _ in range(2):
        env.reset(options={"scene": held_out[-1]})
        env.step(other)
        env.load_state(snapshot)
        resumed = env.step(after)
        if not (_equal(uninterrupted[0], resumed[0]) and uninterrupted[1:4] == resumed[1:4]):
            yield "an episode continued from a snapshot goes on otherwise: save_state or load_state misses something"
            return


def _check_bad_chunks(env: ManipulationEnv, train: list[Scene], held_out: list[Scene]) -> Iterator[str]:
    good = _chunks(env, 1)[0]
    for name, chunk in {
        "too many actions": np.concatenate([good, good]),
        "a wrong width": good[:, :-1],
        "a NaN": np.where(np.arange(good.size).reshape(good.shape) == 0, np.nan, good),
    }.items():
        env.reset(options={"scene": train[0]})
        try:
            env.step(chunk)
        except ValueError:
            continue
        yield f"a chunk with {name} must raise ValueError; self._check_chunk(chunk) does"


def _chunks(env: ManipulationEnv, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    low, high = np.maximum(env.action_space.low, -1), np.minimum(env.action_space.high, 1)
    return rng.uniform(low, high, (count, env.chunk_size, env.action_dim)).astype(np.float32)


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in (IMAGE, PROPRIO, INSTRUCTION))


def main() -> int:
    """Prints what is wrong with a suite; the exit code is 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", help="name of a suite, or module:ATTRIBUTE")
    parser.add_argument("--config", type=json.loads, default={}, help="arguments of the environment, as JSON")
    arguments = parser.parse_args()
    problems = check_suite(arguments.suite, **arguments.config)
    print("\n".join(problems) or f"{arguments.suite}: nothing breaks the contract")
    return int(bool(problems))


if __name__ == "__main__":
    raise SystemExit(main())
