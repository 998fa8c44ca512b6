"""Simulated manipulation tasks behind one gymnasium interface.

Importing this package is light: a simulator is imported when an environment is made.

    import envs
    env = envs.make_env("libero_blocks", image_size=96)
    scene = envs.list_scenes("libero_blocks", "train", ["lift_red_cube"])[0]
    observation, info = env.reset(options={"scene": scene})
"""

import importlib

import gymnasium as gym

from envs.base import SPLITS, ManipulationEnv, Scene, TaskInfo, unknown_name

# Suite -> (module with its task table, "module:class" of its environment, gymnasium id).
_SUITES = {
    "libero_blocks": (
        "envs.libero.blocks.tasks",
        "envs.libero.blocks.environment:LiberoBlocksEnv",
        "rllib_vla/LiberoBlocks-v0",
    ),
}

for _, _entry_point, _gym_id in _SUITES.values():
    if _gym_id not in gym.registry:
        gym.register(_gym_id, entry_point=_entry_point)


def list_suites() -> list[str]:
    """Returns the names of all suites."""
    return list(_SUITES)


def list_tasks(suite: str) -> list[TaskInfo]:
    """Returns the tasks of `suite` in the order of their ids. ValueError for an unknown suite."""
    return list(importlib.import_module(_suite_entry(suite)[0]).TASKS)


def list_scenes(suite: str, split: str, tasks: list[str] | None = None) -> list[Scene]:
    """Returns all scenes of a split, ordered by task (as given) and index. No simulator is needed.

    Args:
        suite: Name of the suite.
        split: ``"train"`` or ``"eval"``.
        tasks: Names of tasks; None means all tasks of the suite.

    Raises:
        ValueError: For an unknown suite, split or task; names the nearest valid one.
    """
    infos = {info.name: info for info in list_tasks(suite)}
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    names = list(infos) if tasks is None else list(tasks)
    for name in names:
        if name not in infos:
            raise unknown_name(f"task of suite {suite!r}", name, infos)
    return [
        Scene(suite, info.name, info.task_id, info.instruction, split, index)
        for info in (infos[name] for name in names)
        for index in range(info.num_scenes[split])
    ]


def make_env(suite: str, **env_config) -> ManipulationEnv:
    """Makes an environment that can play any scene of `suite`.

    Args:
        suite: Name of the suite.
        **env_config: Arguments of the suite's environment class, e.g. `image_size` and `chunk_size`.

    Raises:
        ValueError: For an unknown suite or key of `env_config`; names the nearest valid one.
    """
    module_name, class_name = _suite_entry(suite)[1].split(":")
    env_class = getattr(importlib.import_module(module_name), class_name)
    for key in env_config:
        if key not in env_class.CONFIG_KEYS:
            raise unknown_name(f"key in env_config of suite {suite!r}", key, env_class.CONFIG_KEYS)
    return env_class(**env_config)


def _suite_entry(suite: str) -> tuple[str, str, str]:
    if suite not in _SUITES:
        raise unknown_name("suite", suite, _SUITES)
    return _SUITES[suite]


__all__ = ["ManipulationEnv", "Scene", "TaskInfo", "list_scenes", "list_suites", "list_tasks", "make_env"]
