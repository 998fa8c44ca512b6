"""A checked experiment: everything the runner needs, nothing that still could be misspelled."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.schedulers import TrialScheduler

from rllib_vla.cli.resolved_settings import Setting


@dataclasses.dataclass
class CheckpointSettings:
    """When checkpoints are written and which are kept.

    Attributes:
        frequency: Iterations between checkpoints; 0 means none but the last.
        at_end: Whether a trial that ends writes one.
        num_to_keep: How many of the best to keep (the newest is kept in any case); None keeps all.
        score_attribute: Result key that ranks checkpoints; None ranks by age.
        score_order: Whether a high or a low score is good.
    """

    frequency: int = 10
    at_end: bool = True
    num_to_keep: int | None = None
    score_attribute: str | None = None
    score_order: Literal["max", "min"] = "max"


@dataclasses.dataclass
class Experiment:
    """One experiment, ready to run.

    Attributes:
        name: Name of its directory under `storage_path`.
        run: How the user called the algorithm.
        algo_class: The RLlib `Algorithm`.
        config: Config for Tune, search spaces included.
        example_config: The same with every search space replaced by its first alternative.
        stop: Result key (nested keys joined by "/") -> value at which a trial ends.
        num_samples: How often the search space is sampled (grids are run this many times).
        checkpoints: See `CheckpointSettings`.
        storage_path: Where experiment directories go: an absolute local path or a remote URI.
        resources_per_trial: Overrides the algorithm's own resource request; None keeps it.
        max_failures: How often a failed trial is restarted from its last checkpoint; -1 without limit.
        restore: Checkpoint from which every trial starts.
        max_concurrent_trials: Upper limit of trials at a time; None: what the machine can hold.
        time_budget_s: Wall-clock limit of the whole experiment in seconds.
        scheduler: Tune scheduler; None: trials run in order to their end.
        metric: Result key by which trials are compared.
        mode: Whether a high or a low `metric` is good.
        loggers: Experiment trackers by name, with the arguments of their Tune callbacks.
        settings: Every value with its origin, see `resolved_settings`.
    """

    name: str
    run: str
    algo_class: type
    config: AlgorithmConfig
    example_config: AlgorithmConfig
    stop: dict[str, Any]
    storage_path: str
    num_samples: int = 1
    checkpoints: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    resources_per_trial: dict[str, float] | None = None
    max_failures: int = 0
    restore: Path | None = None
    max_concurrent_trials: int | None = None
    time_budget_s: float | None = None
    scheduler: TrialScheduler | None = None
    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    loggers: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    settings: list[Setting] = dataclasses.field(default_factory=list)
