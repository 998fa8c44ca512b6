"""Evaluates the checkpoint of a plain RLlib algorithm with `Algorithm.evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from rllib_vla.cli.config_builder import ConfigBuilder
from rllib_vla.cli.evaluation_target import EvaluationTarget
from rllib_vla.cli.problems import InputError, KeyPath, Problem, readable_path
from rllib_vla.logging.result_view import flatten


def evaluate_algorithm(
    target: EvaluationTarget,
    console: Console,
    *,
    env: str | None,
    overrides: dict[str, Any],
    steps: int,
    episodes: int,
    out: Path | None,
) -> None:
    """Restores the algorithm and plays greedily.

    Args:
        target: Checkpoint to evaluate.
        console: Where to print.
        env: Another environment; None: the one it was trained in.
        overrides: Config settings that win over those of the checkpoint.
        steps: Environment steps to play, unless `episodes` is given.
        episodes: Episodes to play; 0: count steps.
        out: Folder for ``report.json``.

    Raises:
        InputError: A setting is wrong.
    """
    import ray

    problems: list[Problem] = []

    def report(path: KeyPath, message: str) -> None:
        problems.append(Problem(message, path=path, source="--config"))

    builder = ConfigBuilder(target.algo_class, report, base=target.load_config())
    builder.override(overrides, ())
    if env is not None:
        builder.override({"env": env}, ())
    duration = {"evaluation_duration": episodes or steps}
    unit = {"evaluation_duration_unit": "episodes" if episodes else "timesteps"}
    builder.override({"evaluation": {"evaluation_interval": 1, **duration, **unit}}, ())
    config = builder.build()
    if problems:
        raise InputError(problems)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        algorithm = target.algo_class.from_checkpoint(str(target.path.resolve()), config=config)
        results = flatten(algorithm.evaluate())
        algorithm.stop()
    finally:
        ray.shutdown()
    names = ["episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "num_episodes"]
    chosen = {name: results[f"env_runners/{name}"] for name in names if f"env_runners/{name}" in results}
    for name, value in chosen.items():
        console.print(f"{name:<22}{float(value):.3f}", highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        path = out / "report.json"
        path.write_text(json.dumps({name: float(value) for name, value in chosen.items()}, indent=1))
        console.print(f"Report: {readable_path(path)}", highlight=False)
