"""Reads experiment directories: trials, what distinguishes them, and their curves."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rllib_vla import metrics
from rllib_vla.evaluation.comparison import Count, success_estimate
from rllib_vla.logging.result_view import flatten, format_value, number, read_results

SEED = "seed"
# Parameters that come first where there is an order to choose.
_FIRST = ("temperature", "clip_param_high", "clip_param_low", "lr")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One greedy evaluation.

    Attributes:
        iteration: Training iteration after which it was made; 0: before training.
        minutes: Training time until then.
        success_rate: Share of successful episodes.
        num_episodes: Episodes behind it.
    """

    iteration: int
    minutes: float
    success_rate: float
    num_episodes: int


@dataclasses.dataclass(frozen=True)
class Point:
    """A success rate with its interval.

    Attributes:
        iteration: Training iteration.
        minutes: Training time, mean over the seeds.
        mean: Mean over the seeds.
        low: Lower bound of the 95 % interval.
        high: Upper bound.
        num_seeds: Seeds behind it.
    """

    iteration: int
    minutes: float
    mean: float
    low: float
    high: float
    num_seeds: int


@dataclasses.dataclass(frozen=True)
class TrialResults:
    """One trial.

    Attributes:
        directory: Where it is.
        results: Flattened results, oldest first; at least one.
        config: Flattened configuration at its end.
    """

    directory: Path
    results: list[dict[str, Any]]
    config: dict[str, Any]

    @property
    def status(self) -> str:
        """``finished``, ``failed``, or ``unfinished`` (still running, interrupted or killed)."""
        if self.results[-1].get("done") is True:
            return "finished"
        return "failed" if (self.directory / "error.txt").is_file() else "unfinished"

    @property
    def minutes(self) -> float:
        """Training time."""
        return (number(self.results[-1], "time_total_s") or 0.0) / 60

    @property
    def num_iterations(self) -> int:
        """Iterations done."""
        return int(self.results[-1].get("training_iteration", 0))

    @functools.cached_property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, the one before training first."""
        found = []
        for prefix, results in (("evaluation_at_start", self.results[:1]), ("evaluation", self.results)):
            for result in results:
                rate = number(result, f"{prefix}/{metrics.SUCCESS_RATE}")
                count = number(result, f"{prefix}/{metrics.NUM_TRAJECTORIES}")
                if rate is not None and count:
                    is_first = prefix != "evaluation"
                    minutes = 0.0 if is_first else (number(result, "time_total_s") or 0.0) / 60
                    iteration = 0 if is_first else int(result["training_iteration"])
                    found.append(Evaluation(iteration, minutes, rate, int(count)))
        return found

    def series(self, key: str) -> list[tuple[int, float]]:
        """Returns (iteration, value) of every result that has a number under `key`."""
        values = [(int(result["training_iteration"]), number(result, key)) for result in self.results]
        return [(iteration, value) for iteration, value in values if value is not None]

    def seconds(self) -> dict[str, float]:
        """Returns training time by activity, summed over all iterations."""
        parts = [split_seconds(result, is_first=index == 0) for index, result in enumerate(self.results)]
        return {name: sum(part[name] for part in parts) for name in parts[0]}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Trials that differ by their seed only.

    Attributes:
        parameters: What distinguishes it from the other configurations.
        trials: Its trials.
        label: `parameters` in words.
    """

    parameters: dict[str, Any]
    trials: list[TrialResults]
    label: str

    @functools.cached_property
    def curve(self) -> list[Point]:
        """Evaluated success with 95 % intervals.

        Intervals cover the choice of scenes and, from three seeds on, how much trainings differ: `success_estimate`.
        """
        by_iteration: dict[int, list[Evaluation]] = {}
        for trial in self.trials:
            for evaluation in trial.evaluations:
                by_iteration.setdefault(evaluation.iteration, []).append(evaluation)
        return [_point(evaluations) for _, evaluations in sorted(by_iteration.items())]

    @property
    def final(self) -> Point | None:
        """The last evaluation that all seeds made; None if there was none after the start."""
        complete = [p for p in self.curve if p.iteration and p.num_seeds == len(self.trials)]
        return complete[-1] if complete else None

    @property
    def iteration(self) -> int:
        """The iteration that `score` speaks of."""
        return min(trial.num_iterations for trial in self.trials) if self.final is None else self.final.iteration

    @property
    def score(self) -> float:
        """What configurations are ranked by: final evaluation, or what sampling saw where nothing was evaluated."""
        if self.final is not None:
            return self.final.mean
        last = [trial.series(f"env_runners/{metrics.SUCCESS_RATE}")[-5:] for trial in self.trials]
        values = [value for series in last for _, value in series]
        return statistics.fmean(values) if values else float("nan")


@dataclasses.dataclass(frozen=True)
class Study:
    """What is reported on: one or several experiments.

    Attributes:
        name: Names of the experiments.
        trials: All trials with results.
        swept: Parameters in which configurations differ.
        configurations: Best first.
        num_without_results: Trials that have no result yet.
    """

    name: str
    trials: list[TrialResults]
    swept: list[str]
    configurations: list[Configuration]
    num_without_results: int = 0


def load_study(paths: Iterable[str | Path]) -> Study:
    """Reads experiments, or single trials.

    Raises:
        ValueError: One of them holds no results.
    """
    directories = [Path(path) for path in paths]
    trials = [trial for directory in directories for trial in _read_trials(directory)]
    differing = _differing_keys([trial.config for trial in trials])
    # A scheduler that changes parameters while a trial runs makes every trial a configuration of its own.
    mutable = any(len({_frozen(_searched(r)) for r in trial.results if _searched(r)}) > 1 for trial in trials)
    swept = [key for key in differing if key != SEED]
    groups: dict[Any, list[TrialResults]] = {}
    for trial in trials:
        key = trial.directory if mutable else _frozen({name: trial.config.get(name) for name in swept})
        groups.setdefault(key, []).append(trial)
    configurations = []
    for members in groups.values():
        parameters = {name: members[0].config.get(name) for name in swept}
        label = ", ".join(f"{name} {format_value(value)}" for name, value in parameters.items())
        label = members[0].directory.name[-5:] if mutable else label or members[0].directory.parent.name
        configurations.append(Configuration(parameters, members, label))
    configurations.sort(key=lambda c: -math.inf if math.isnan(c.score) else c.score, reverse=True)
    name = ", ".join(dict.fromkeys(d.resolve().name for d in directories))
    started = {path.parent for directory in directories for path in directory.glob("*/params.json")}
    return Study(name, trials, swept, configurations, len(started - {trial.directory for trial in trials}))


def split_seconds(result: dict[str, Any], *, is_first: bool = False) -> dict[str, float]:
    """Returns the time of one iteration by activity (seconds).

    Args:
        result: Flattened result.
        is_first: Whether it is the trial's first one, which includes the evaluation before training.
    """
    seconds = {
        "sampling": number(result, f"{metrics.TIME_SPLIT}/{metrics.TIME_SAMPLE}") or 0.0,
        "update": number(result, f"{metrics.TIME_SPLIT}/{metrics.TIME_UPDATE}") or 0.0,
        "weight sync": number(result, f"{metrics.TIME_SPLIT}/{metrics.TIME_SYNC}") or 0.0,
        "evaluation": number(result, f"evaluation/{metrics.TIME_EVALUATE}") or 0.0,
    }
    if is_first:
        seconds["evaluation"] += number(result, f"evaluation_at_start/{metrics.TIME_EVALUATE}") or 0.0
    total = number(result, "time_this_iter_s") or 0.0
    return seconds | {"other": max(0.0, total - sum(seconds.values()))}


def _read_trials(directory: Path) -> list[TrialResults]:
    if not directory.is_dir():
        raise ValueError(f"no such directory: {directory}")
    folders = sorted({path.parent for pattern in ("result.json", "*/result.json") for path in directory.glob(pattern)})
    # A checkpoint of a trial holds a result of its own.
    folders = [folder for folder in folders if not folder.name.startswith("checkpoint_")]
    trials = [TrialResults(f, results, _read_config(f, results)) for f in folders if (results := read_results(f))]
    if not trials:
        raise ValueError(
            f"{directory} holds no results (yet): expected <trial>/result.json with at least one iteration"
        )
    return trials


def _read_config(directory: Path, results: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        config = flatten(json.loads((directory / "params.json").read_text()))
    except (OSError, json.JSONDecodeError):
        config = {}
    # A function's address differs from process to process and says nothing.
    config = {key: _ADDRESS.sub("", value) if isinstance(value, str) else value for key, value in config.items()}
    return config | _searched(results[-1])


def _searched(result: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("config/"): value for key, value in result.items() if key.startswith("config/")}


def _frozen(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def _differing_keys(configs: list[dict[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config)
    differing = [key for key in keys if len({_frozen({"": config.get(key)}) for config in configs}) > 1]
    rank = {key: index for index, key in enumerate(_FIRST)}
    return sorted(differing, key=lambda key: rank.get(key, len(rank)))


def _point(evaluations: list[Evaluation]) -> Point:
    counts = [Count(round(e.success_rate * e.num_episodes), e.num_episodes) for e in evaluations]
    estimate = success_estimate(counts)
    mean = statistics.fmean(evaluation.success_rate for evaluation in evaluations)
    minutes = statistics.fmean(evaluation.minutes for evaluation in evaluations)
    return Point(evaluations[0].iteration, minutes, mean, estimate.low, estimate.high, len(counts))
