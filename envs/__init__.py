"""Simulated manipulation tasks behind one gymnasium interface.

Importing this package is light: a simulator is imported when an environment is made.

    import envs
    env = envs.make_env("libero_blocks", image_size=96)
    scene = envs.list_scenes("libero_blocks", "train", ["lift_red_cube"])[0]
    observation, info = env.reset(options={"scene": scene})

Wherever a suite is named, `"libero_spatial+libero_object"` names the mixture of several, see `envs.mixture`.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from envs.base import ManipulationEnv, Scene, Suite, TaskInfo, unknown_name
from envs.mixture import MixedEnv, member_names, mixed_suite

# One id for five suites: gym.make(_LIBERO_ID, suite="libero_spatial", task_id=3).
_LIBERO_ID = "rllib_vla/Libero-v0"

_SUITES = {
    suite.name: suite
    for suite in [
        Suite(
            name="libero_blocks",
            tasks="envs.libero.blocks.tasks:TASKS",
            env_class="envs.libero.blocks.environment:LiberoBlocksEnv",
            gym_id="rllib_vla/LiberoBlocks-v0",
            gripper_convention="libero",
            demonstrator="envs.libero.blocks.demonstrator:LiberoBlocksDemonstrator",
            model_memory_gb=0.1,
        ),
        Suite(
            name="bimanual",
            tasks="envs.robotwin.bimanual.tasks:TASKS",
            env_class="envs.robotwin.bimanual.environment:BimanualEnv",
            gym_id="rllib_vla/Bimanual-v0",
            demonstrator="envs.robotwin.bimanual.demonstrator:BimanualDemonstrator",
            demonstration_layout="robotwin",
        ),
        *(
            Suite(
                name=name,
                tasks=f"envs.libero.suites.tasks:{name}_tasks",
                env_class=f"envs.libero.suites.environment:{env_class}",
                gym_id=_LIBERO_ID,
                gripper_convention="libero",
                model_memory_gb=0.7,
            )
            for name, env_class in (
                ("libero_spatial", "LiberoSpatialEnv"),
                ("libero_object", "LiberoObjectEnv"),
                ("libero_goal", "LiberoGoalEnv"),
                ("libero_10", "Libero10Env"),
                ("libero_90", "Libero90Env"),
            )
        ),
        Suite(
            name="robotwin2",
            tasks="envs.robotwin.real.tasks:robotwin2_tasks",
            env_class="envs.robotwin.real.suites:RoboTwin2Env",
            gym_id="rllib_vla/RoboTwin2-v0",
            divisible_chunks=False,
            process_memory_gb=0.6,
            model_memory_gb=0.0,  # the objects of one scene
            prompt_length=192,  # three objects with the longest descriptions there are: about 140 tokens
        ),
        Suite(
            name="robotwin1",
            tasks="envs.robotwin.real.tasks:robotwin1_tasks",
            env_class="envs.robotwin.real.suites:RoboTwin1Env",
            gym_id="rllib_vla/RoboTwin1-v0",
            divisible_chunks=False,
            process_memory_gb=0.6,
            model_memory_gb=0.0,  # the objects of one scene
        ),
    ]
}

for _suite in _SUITES.values():
    if _suite.gym_id not in gym.registry:
        _entry_point = "envs:make_env" if _suite.gym_id == _LIBERO_ID else _suite.env_class
        gym.register(_suite.gym_id, entry_point=_entry_point)


def list_suites() -> list[str]:
    """Returns the names of all built-in suites."""
    return list(_SUITES)


def get_suite(suite: str) -> Suite:
    """Returns what is known about a suite.

    Args:
        suite: Name of a built-in suite, ``"module:ATTRIBUTE"`` naming a `Suite` object of your own, or several of these
            joined by ``+``.

    Raises:
        ValueError: For an unknown name; names the nearest valid one. For suites that cannot be mixed.
    """
    names = member_names(suite)
    if len(names) > 1:
        return mixed_suite(suite, [get_suite(name) for name in names])
    if ":" in suite:
        return _load(suite)
    if suite not in _SUITES:
        raise unknown_name("suite", suite, _SUITES)
    return _SUITES[suite]


def list_tasks(suite: str, env_config: Mapping[str, Any] | None = None) -> list[TaskInfo]:
    """Returns the tasks of `suite` in the order of their ids.

    Args:
        suite: Name of the suite.
        env_config: Settings of the environment, which decide what tasks there are if the suite is a user's checkout.

    Raises:
        ValueError: For an unknown suite.
        UnavailableError: If the suite needs something that is not there; says what.
    """
    tasks = []
    for name in member_names(suite):
        found = _load(get_suite(name).tasks)
        tasks += found(env_config or {}) if callable(found) else found
    return tasks


def list_instructions(suite: str, env_config: Mapping[str, Any] | None = None) -> list[str]:
    """Returns the instructions that observations of `suite` may carry; arguments and errors as in `list_tasks`."""
    return list(dict.fromkeys(text for info in list_tasks(suite, env_config) for text in info.all_instructions))


def list_scenes(
    suite: str, split: str, tasks: list[str] | None = None, env_config: Mapping[str, Any] | None = None
) -> list[Scene]:
    """Returns all scenes of a split, ordered by task (as given) and index. No simulator is needed.

    Args:
        suite: Name of the suite.
        split: ``"train"``, ``"eval"``, or another one that the suite has.
        tasks: Names of tasks; None means all tasks of the suite that have scenes.
        env_config: As in `list_tasks`.

    Raises:
        ValueError: For an unknown suite, split or task; names the nearest valid one. For tasks without scenes.
        UnavailableError: As in `list_tasks`.
    """
    infos: dict[str, tuple[str, TaskInfo]] = {}
    for member in member_names(suite):
        for info in list_tasks(member, env_config):
            if split not in info.num_scenes:
                raise unknown_name("split", split, info.num_scenes)
            if info.name in infos:
                raise ValueError(f"a task {info.name!r} is in suite {infos[info.name][0]!r} and in {member!r}")
            infos[info.name] = (member, info)
    if isinstance(tasks, str):
        raise ValueError(f"`tasks` must be a list of names, is {tasks!r}: write [{tasks}]")
    for name in tasks or ():
        if name not in infos:
            raise unknown_name(f"task of suite {suite!r}", name, infos)
    chosen = list(infos.values()) if tasks is None else [infos[name] for name in tasks]
    empty = [info for _, info in chosen if not info.num_scenes[split]]
    if empty and (tasks is not None or len(empty) == len(chosen)):
        raise ValueError(empty[0].hint or f"task {empty[0].name!r} has no scenes in the split {split!r}")
    return [
        Scene(member, info.name, info.task_id, info.instruction, split, index)
        for member, info in chosen
        for index in range(info.num_scenes[split])
    ]


def make_env(suite: str, **env_config: Any) -> ManipulationEnv:
    """Makes an environment that can play any scene of `suite`.

    Args:
        suite: Name of the suite.
        **env_config: Arguments of the suite's environment class, e.g. `image_size` and `chunk_size`. In a mixture,
            every member gets those that it knows.

    Raises:
        ValueError: For an unknown suite or key of `env_config`; names the nearest valid one.
    """
    validate_env_config(suite, env_config)
    names = member_names(suite)
    if len(names) > 1:
        get_suite(suite)
        keys = {name: _env_class(name).CONFIG_KEYS for name in names}
        return MixedEnv(
            {name: make_env(name, **{k: v for k, v in env_config.items() if k in keys[name]}) for name in names}
        )
    return _env_class(suite)(**env_config)


def config_keys(suite: str) -> tuple[str, ...]:
    """Returns the keys that `env_config` may have for a suite; of a mixture, those that any member knows."""
    return tuple(dict.fromkeys(key for name in member_names(suite) for key in _env_class(name).CONFIG_KEYS))


def config_defaults(suite: str) -> dict[str, Any]:
    """Returns the defaults of `config_keys`, as far as the constructors of the suite's environment state them."""
    defaults = {
        parameter.name: parameter.default
        for name in member_names(suite)
        for base in reversed(_env_class(name).__mro__)
        if "__init__" in vars(base)
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values()
        if parameter.default is not parameter.empty
    }
    return {key: defaults[key] for key in config_keys(suite) if key in defaults}


def validate_env_config(suite: str, env_config: Mapping[str, Any], also: Sequence[str] = ()) -> None:
    """Checks the keys of `env_config`. ValueError for an unknown one; names the nearest valid key.

    Args:
        suite: Name of the suite.
        env_config: Settings of the environment.
        also: Keys that are valid besides those of the suite's environment class.
    """
    valid = dict.fromkeys([*also, *config_keys(suite)])
    for key in env_config:
        if key not in valid:
            raise unknown_name(f"key in env_config of suite {suite!r}", key, valid)


def make_demonstrator(suite: str) -> Any:
    """Makes the `envs.demonstrations.Demonstrator` of a suite. ValueError for a suite without scripted experts."""
    path = get_suite(suite).demonstrator
    if path is None:
        able = [name for name, known in _SUITES.items() if known.demonstrator is not None]
        raise ValueError(f"suite {suite!r} has no scripted experts; those with experts: {', '.join(able)}")
    return _load(path)()


def frame_rate(suite: str) -> float:
    """Returns the control steps per second of simulated time: a video of every step plays in real time at this rate."""
    return float(_env_class(suite).metadata.get("render_fps", 20))


def supports_snapshots(suite: str) -> bool:
    """Returns whether running episodes of a suite can be saved; see `ManipulationEnv`."""
    return all(_env_class(name).supports_snapshots for name in member_names(suite))


def tells_object_states(suite: str) -> bool:
    """Returns whether environments of a suite tell where the object of a task is (`ManipulationEnv.object_state`)."""
    return all(_env_class(name).object_state is not ManipulationEnv.object_state for name in member_names(suite))


def memory_gb(suite: str, tasks: list[str] | None = None, env_config: Mapping[str, Any] | None = None) -> float:
    """Returns the memory that an environment takes once it has played all of `tasks`; arguments as in `list_scenes`."""
    members = {name: get_suite(name) for name in member_names(suite)}
    models = {
        (name, info.workspace)
        for name in members
        for info in list_tasks(name, env_config)
        if tasks is None or info.name in tasks
    }
    process = max(member.process_memory_gb for member in members.values())
    return process + sum(members[name].model_memory_gb for name, _ in models)


def make_spaces(suite: str, **env_config: Any) -> tuple[gym.Space, gym.Space]:
    """Returns the observation and the action space of `make_env(suite, **env_config)`; no simulator is built."""
    key = (suite, repr(sorted(env_config.items())))
    if key not in _SPACES:
        env = make_env(suite, **env_config)
        _SPACES[key] = env.observation_space, env.action_space
    return _SPACES[key]


_SPACES: dict[tuple[str, str], tuple[gym.Space, gym.Space]] = {}


def _env_class(suite: str) -> type[ManipulationEnv]:
    return _load(get_suite(suite).env_class)


def _load(path: str) -> Any:
    """Imports ``"module:attribute"``. ValueError if there is no such thing."""
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        hint = "; is its folder on PYTHONPATH?" if error.name == module_name.partition(".")[0] else ""
        raise ValueError(f"cannot load {path!r}: {error}{hint}") from error
    except AttributeError as error:
        raise ValueError(f"cannot load {path!r}: {error}") from error


__all__ = [
    "ManipulationEnv",
    "Scene",
    "Suite",
    "TaskInfo",
    "config_keys",
    "frame_rate",
    "get_suite",
    "list_instructions",
    "list_scenes",
    "list_suites",
    "list_tasks",
    "make_demonstrator",
    "make_env",
    "make_spaces",
    "memory_gb",
    "supports_snapshots",
    "tells_object_states",
    "validate_env_config",
]
