"""Reads a Tune result the way a person looks at it: one line per iteration, time to go, best evaluation."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from typing import Any

from rllib_vla import metrics

EVALUATION_SUCCESS = f"evaluation/{metrics.SUCCESS_RATE}"


def flatten(result: dict[str, Any]) -> dict[str, Any]:
    """Returns nested results with keys joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, dict):
            flat.update({f"{key}/{inner}": item for inner, item in flatten(value).items()})
        else:
            flat[str(key)] = value
    return flat


def number(flat: dict[str, Any], *keys: str) -> float | None:
    """Returns the first of `keys` that holds a finite number."""
    for key in keys:
        value = flat.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None


def evaluation_score(flat: dict[str, Any]) -> tuple[str, float] | None:
    """Returns label and value of the evaluation in a result: success rate, or mean return for other algorithms."""
    for label, key in (
        ("greedy success", EVALUATION_SUCCESS),
        ("evaluated success", f"evaluation/env_runners/{metrics.SUCCESS_RATE}"),
        ("evaluated return", "evaluation/env_runners/episode_return_mean"),
    ):
        if (value := number(flat, key)) is not None:
            return label, value
    return None


def training_score(flat: dict[str, Any]) -> tuple[str, float] | None:
    """Returns label and value of what sampling saw in this iteration."""
    success = number(flat, f"env_runners/{metrics.SUCCESS_RATE}")
    if success is not None:
        return "success", success
    episode_return = number(flat, "env_runners/episode_return_mean")
    return None if episode_return is None else ("return", episode_return)


def read_results(trial_dir: str | Path) -> list[dict[str, Any]]:
    """Returns the flattened results of a trial, one per iteration.

    An iteration that comes again means that the trial went on from an earlier checkpoint: what was written of this and
    later iterations before belongs to weights that were given up.
    """
    by_iteration: dict[int, dict[str, Any]] = {}
    path = Path(trial_dir) / "result.json"
    if not path.is_file():
        return []
    for line in path.read_text().splitlines():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        iteration = result.get("training_iteration", 0)
        by_iteration = {i: kept for i, kept in by_iteration.items() if i < iteration} | {iteration: flatten(result)}
    return list(by_iteration.values())


class TimeToGo:
    """Estimates the time until the first stop criterion is met, from the recent iterations.

    Args:
        stop: Result key -> value at which the trial ends.
    """

    _RATE_KEYS = ("training_iteration", "num_env_steps_sampled_lifetime")

    def __init__(self, stop: dict[str, Any]):
        self._stop = stop
        self._recent: deque[dict[str, Any]] = deque(maxlen=10)

    def update(self, flat: dict[str, Any]) -> float | None:
        """Takes in one result and returns seconds to go, None if no criterion tells."""
        self._recent.append(flat)
        estimates = []
        elapsed = number(flat, "time_total_s")
        limit = number(self._stop, "time_total_s")
        if limit is not None and elapsed is not None:
            estimates.append(limit - elapsed)
        for key in self._RATE_KEYS:
            target, now = number(self._stop, key), number(flat, key, f"env_runners/{key}")
            rate = self._rate(key)
            if target is not None and now is not None and rate:
                estimates.append((target - now) / rate)
        return max(0.0, min(estimates)) if estimates else None

    def _rate(self, key: str) -> float | None:
        first, last = self._recent[0], self._recent[-1]
        start = number(first, "time_total_s") or 0.0
        before = number(first, key, f"env_runners/{key}") or 0.0
        if first is last:
            # The start of the trial is the other point.
            start -= number(first, "time_this_iter_s") or start
            before = before - 1 if key == "training_iteration" else 0.0
        seconds = (number(last, "time_total_s") or 0.0) - start
        return ((number(last, key, f"env_runners/{key}") or 0.0) - before) / seconds if seconds > 0 else None


def format_duration(seconds: float) -> str:
    """Writes seconds as ``45s``, ``12m05s`` or ``3h20m``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def format_value(value: Any) -> str:
    """Writes a parameter's value: numbers with up to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_iteration(
    flat: dict[str, Any], seconds_to_go: float | None, best: float | None = None, *, width: int | None = None
) -> str:
    """Returns the line of one iteration: score, group contrast, speed, time.

    Args:
        flat: Flattened result.
        seconds_to_go: From `TimeToGo`.
        best: Best evaluation so far, shown beside a new evaluation.
        width: Columns; where the line is longer, what can be read elsewhere is left out. None: no limit.
    """
    parts = _iteration_parts(flat, seconds_to_go, best)
    for dispensable in ("split", "speed", "groups", "elapsed"):
        if width is None or len(_joined(parts)) <= width:
            break
        parts.pop(dispensable, None)
    return _joined(parts)


def _joined(parts: dict[str, str]) -> str:
    return "  ".join(parts.values()).replace("s  (", "s (")


def _iteration_parts(flat: dict[str, Any], seconds_to_go: float | None, best: float | None) -> dict[str, str]:
    parts = {"iteration": f"iter {int(flat.get('training_iteration', 0)):4d}"}
    if score := training_score(flat):
        parts["score"] = f"{score[0]} {score[1]:.2f}"
    if score := evaluation_score(flat):
        best_text = f" (best {best:.2f})" if best is not None and best > score[1] else ""
        parts["evaluation"] = f"eval {score[1]:.2f}{best_text}"
    mixed = number(flat, f"env_runners/{metrics.SHARE_MIXED_GROUPS}")
    if mixed is not None:
        parts["mixed"] = f"mixed {mixed:.0%}"
    groups = number(flat, f"{metrics.SAMPLING_RESULTS}/{metrics.NUM_GROUPS_TRAINED}")
    speed = number(flat, f"{metrics.SAMPLING_RESULTS}/{metrics.ENV_STEPS_PER_SECOND}")
    if groups == 0:
        parts["no update"] = "no update (no group with contrast)"
    elif groups is not None:
        # Where the groups left over were enough, nothing was sampled.
        parts["groups"] = f"groups {groups:.0f}" + (" carried over" if speed == 0 else "")
    if speed:
        parts["speed"] = f"{speed:.0f} steps/s"
    if (seconds := number(flat, "time_this_iter_s")) is not None:
        parts["seconds"] = f"{seconds:.1f}s"
        if split := _time_split(flat):
            parts["split"] = f"({split})"
    if (elapsed := number(flat, "time_total_s")) is not None:
        parts["elapsed"] = f"elapsed {format_duration(elapsed)}"
    if seconds_to_go is not None:
        parts["left"] = f"left {format_duration(seconds_to_go)}"
    return parts


def format_progress(fields: dict[str, Any], seconds: float) -> str:
    """Returns the line for an iteration in progress, from the fields of a `ProgressFile`."""
    return f"iter {int(fields.get('iteration', 0)):4d}  {format_phase(fields, seconds)}"


def format_phase(fields: dict[str, Any], seconds: float) -> str:
    """Returns what an iteration in progress does at the moment; see `format_progress`."""
    phase = {"sample": "sampling", "update": "updating", "evaluate": "evaluating"}
    parts = [phase.get(fields.get("phase"), fields.get("phase", ""))]
    if "groups_collected" in fields:
        target = f"/{fields['groups_target']}" if "groups_target" in fields else ""
        parts.append(f"groups {fields['groups_collected']}{target}")
    if "episodes_done" in fields:
        parts.append(f"episodes {fields['episodes_done']}/{fields.get('episodes_total', '?')}")
    if (success := number(fields, "success_rate")) is not None:
        parts.append(f"success so far {success:.2f}")
    if (speed := number(fields, "env_steps_per_second")) is not None:
        parts.append(f"{speed:.0f} steps/s")
    parts.append(format_duration(seconds))
    return "  ".join(part for part in parts if part)


def _time_split(flat: dict[str, Any]) -> str:
    names = {
        "sample": f"{metrics.TIME_SPLIT}/{metrics.TIME_SAMPLE}",
        "update": f"{metrics.TIME_SPLIT}/{metrics.TIME_UPDATE}",
        "sync": f"{metrics.TIME_SPLIT}/{metrics.TIME_SYNC}",
        "eval": f"evaluation/{metrics.TIME_EVALUATE}",
    }
    values = {label: number(flat, key) for label, key in names.items()}
    return " ".join(f"{label} {value:.1f}" for label, value in values.items() if value and value >= 0.05)
