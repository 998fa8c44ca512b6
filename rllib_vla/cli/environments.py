"""Whether an environment name means something, asked before anything is started."""

from __future__ import annotations

import gymnasium

import envs
from envs.mixture import SEPARATOR, member_names
from rllib_vla.cli.problems import nearest
from rllib_vla.cli.value_types import import_dotted


def check_environment(env: str) -> tuple[str | None, str | None]:
    """Checks an environment's name.

    Known are suites (built in or ``module:ATTRIBUTE``) and mixtures of them, gymnasium ids, names registered with
    Tune, and dotted class paths.

    Returns:
        What is wrong with it and the nearest known name; (None, None) if it can be made.
    """
    from ray.tune.registry import ENV_CREATOR, _global_registry

    suites = envs.list_suites()
    if env in suites or env in gymnasium.registry or _global_registry.contains(ENV_CREATOR, env):
        return None, None
    reason = ""
    try:
        if ":" in env or SEPARATOR in env:
            envs.get_suite(env)
            return None, None
        if is_class_path(env):
            import_dotted(env)
            return None, None
        if "/" in env:
            gymnasium.spec(env)
            return None, None
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        if SEPARATOR in env:
            members = [nearest(name, suites) for name in member_names(env)]
            return str(error), SEPARATOR.join(members) if all(members) else None
        reason = f" ({error})"
    match = nearest(env, suites) or nearest(env, gymnasium.registry)
    suggestion = f"did you mean '{match}'?" if match else f"suites: {', '.join(suites)}"
    return f"unknown environment '{env}'{reason}; {suggestion}", match


def is_class_path(env: str) -> bool:
    """Whether a name has the form ``package.module.Class`` and is no registered id."""
    return "." in env and not set(env) & set(":/") and env not in gymnasium.registry
