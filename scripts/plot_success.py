"""Draws success against wall time of one or more runs: `python scripts/plot_success.py OUT.png RUN_DIR ...`.

A run directory is an experiment under `runs/`; its trials' `result.json` files are read. Dots are greedy evaluations on
held-out scenes with 95 % Wilson intervals, the line is the success rate of sampled training trajectories.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from rllib_vla.evaluation.confidence import wilson_interval


def read_results(run_dir: Path) -> list[dict]:
    """Returns the results of the run's newest trial, oldest first."""
    files = sorted(run_dir.glob("*/result.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise SystemExit(f"no */result.json under {run_dir}")
    return [json.loads(line) for line in files[-1].read_text().splitlines()]


def evaluations(results: list[dict]) -> list[tuple[float, float, int]]:
    """Returns (minutes, success rate, number of trajectories) of every evaluation, the one before training first."""
    at_start = results[0].get("evaluation_at_start")
    points = [(0.0, at_start["success_rate"], at_start["num_trajectories"])] if at_start else []
    for result in results:
        evaluation = result.get("evaluation") or {}
        if evaluation.get("num_trajectories"):
            points.append((result["time_total_s"] / 60, evaluation["success_rate"], evaluation["num_trajectories"]))
    return points


def main(out: str, run_dirs: list[str]) -> None:
    """Writes the figure."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=120)
    for number, run_dir in enumerate(run_dirs):
        color = f"C{number}"
        results = read_results(Path(run_dir))
        sampled = [(r["time_total_s"] / 60, r["env_runners"].get("success_rate")) for r in results]
        axes.plot(*zip(*sampled, strict=True), color=color, alpha=0.4, label=f"{Path(run_dir).name}: sampled, training")
        minutes, rates, counts = zip(*evaluations(results), strict=True)
        bounds = [wilson_interval(round(rate * n), n) for rate, n in zip(rates, counts, strict=True)]
        errors = [
            [rate - low for rate, (low, _) in zip(rates, bounds, strict=True)],
            [high - rate for rate, (_, high) in zip(rates, bounds, strict=True)],
        ]
        axes.errorbar(minutes, rates, errors, fmt="o-", capsize=2, color=color, label="greedy, held-out scenes")
    axes.set(xlabel="minutes on two CPU cores", ylabel="success rate", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2:])
