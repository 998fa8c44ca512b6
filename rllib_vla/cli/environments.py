"""Whether an environment name means something, asked before anything is started."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

import envs
from rllib_vla.cli.problems import nearest
from rllib_vla.cli.value_types import ValueTypeError, import_dotted


def check_environment(config: AlgorithmConfig) -> str | None:
    """Returns what is wrong with the environment of a config, None if it can be made.

    Known are the suites of `envs`, gymnasium ids, names registered with Tune, and dotted class paths.
    """
    from ray.tune.registry import ENV_CREATOR, _global_registry

    env: Any = config.env
    if env is None:
        needed = not config.is_offline and config.observation_space is None
        return "no environment is given: add 'env: <suite or gymnasium id>'" if needed else None
    if not isinstance(env, str) or _global_registry.contains(ENV_CREATOR, env):
        return None
    import gymnasium

    if env in envs.list_suites() or env in gymnasium.registry:
        return None
    if ":" in env or "/" in env:
        try:
            gymnasium.spec(env)
            return None
        except (gymnasium.error.Error, ImportError) as error:
            reason = f" ({error})"
    elif "." in env:
        try:
            import_dotted(env)
            return None
        except ValueTypeError as error:
            reason = f" ({error})"
    else:
        reason = ""
    match = nearest(env, [*envs.list_suites(), *gymnasium.registry])
    suggestion = f"did you mean '{match}'?" if match else f"suites: {', '.join(envs.list_suites())}"
    return f"unknown environment '{env}'{reason}; {suggestion}"
