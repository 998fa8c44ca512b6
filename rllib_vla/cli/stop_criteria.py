"""Checks stop criteria: a misspelled one never fires, and the run goes on for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rllib_vla import metrics
from rllib_vla.cli.problems import KeyPath, nearest

_TOP_LEVEL = [
    "training_iteration",
    "time_total_s",
    "time_this_iter_s",
    "iterations_since_restore",
    "time_since_restore",
    "num_env_steps_sampled_lifetime",
    "num_training_step_calls_per_iteration",
    "done",
]
_GROUPS = [
    "env_runners",
    "evaluation",
    "learners",
    "timers",
    "fault_tolerance",
    "perf",
    metrics.SAMPLING_RESULTS,
    metrics.TIME_SPLIT,
]
_RUNNER_KEYS = [
    metrics.SUCCESS_RATE,
    metrics.NUM_TRAJECTORIES,
    metrics.NUM_TRAJECTORIES_LIFETIME,
    metrics.TRAJECTORY_LENGTH,
    metrics.NUM_GROUPS,
    metrics.SHARE_MIXED_GROUPS,
    metrics.SHARE_ALL_SUCCESS_GROUPS,
    metrics.SHARE_ALL_FAIL_GROUPS,
    "episode_return_mean",
    "episode_return_min",
    "episode_return_max",
    "episode_len_mean",
    "num_episodes",
    "num_episodes_lifetime",
    "num_env_steps_sampled",
    "num_env_steps_sampled_lifetime",
    "num_agent_steps_sampled_lifetime",
]
# Names of the old API stack, which the new one never reports.
_RENAMED = {
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "num_env_steps_trained": "num_env_steps_sampled_lifetime",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "episode_reward_mean": "env_runners/episode_return_mean",
    "sampler_results/episode_reward_mean": "env_runners/episode_return_mean",
    "evaluation/episode_reward_mean": "evaluation/env_runners/episode_return_mean",
}
_KNOWN = [
    *_TOP_LEVEL,
    *(f"{prefix}/{key}" for prefix in ("env_runners", "evaluation", "evaluation/env_runners") for key in _RUNNER_KEYS),
]


def flatten_stop(stop: dict, report: Callable[[KeyPath, str], None]) -> dict[str, Any]:
    """Returns stop criteria with nested keys joined by "/", the way Tune compares them.

    Args:
        stop: Result key -> value, possibly nested; null: no criterion (to undo one of an extended file).
        report: Called with (path, message) for names that no algorithm reports and for values of a wrong type.
    """
    criteria: dict[str, Any] = {}

    def visit(node: dict, path: KeyPath) -> None:
        for key, value in node.items():
            key_path = (*path, key)
            if isinstance(value, dict):
                visit(value, key_path)
                continue
            name = "/".join(map(str, key_path))
            message = _mistake(name, value)
            if message:
                report(key_path, message)
            elif value is not None:
                criteria[name] = value

    visit(stop, ())
    return criteria


def name_mistake(name: str) -> str | None:
    """Returns what is wrong with the name of a result, None if an algorithm may report it."""
    if name in _RENAMED:
        return f"is never reported on the new API stack; use '{_RENAMED[name]}'"
    if name not in _KNOWN:
        root = name.split("/")[0]
        # Custom metrics are free to appear below the known groups, as long as they are no near miss.
        match = nearest(name, _KNOWN, cutoff=0.85 if root in _GROUPS else 0.6)
        if match:
            return f"unknown result; did you mean '{match}'?"
        if root not in _GROUPS:
            return (
                f"unknown result; results are {', '.join(_TOP_LEVEL[:2])}, … or '<group>/<name>' with a "
                f"group of {', '.join(_GROUPS)}"
            )
    return None


def needs_evaluation(name: str) -> bool:
    """Whether a result is reported only by evaluations."""
    return name.startswith("evaluation/")


def _mistake(name: str, value: Any) -> str | None:
    if (message := name_mistake(name)) is not None:
        return message
    if value is None:
        return None
    if not isinstance(value, int | float) or (isinstance(value, bool) and name != "done"):
        return f"expected a number, got {value!r}"
    if _is_share(name) and value > 1:
        return f"is a share between 0 and 1, which never reaches {value}"
    if (_is_share(name) or name in _TOP_LEVEL) and not value > 0:
        return f"must be above 0, is {value}"
    return None


def _is_share(name: str) -> bool:
    key = name.split("/")[1] if name.startswith(("env_runners/", "evaluation/")) else ""
    return key.endswith(metrics.SUCCESS_RATE) or key.startswith("share_")
