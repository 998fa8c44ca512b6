"""The figures of an experiment's report. Each function draws one and returns it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from rllib_vla import metrics
from rllib_vla.evaluation.comparison import Estimate
from rllib_vla.reporting.figures import COLORS, style_axes
from rllib_vla.reporting.results import Study, TrialResults

_DPI = 110
_LINE_STYLES = ("-", "--", ":", "-.")


def bars_figure(labels: list[str], series: dict[str, list[Estimate | None]]) -> Figure:
    """Success rates of all arms, one bar per evaluation stage, with 95 % intervals."""
    figure = Figure(figsize=(max(6.0, 1.2 + 1.1 * len(labels) * max(1, len(series) / 2)), 3.2), dpi=_DPI)
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    width = 0.8 / len(series)
    for index, (name, estimates) in enumerate(series.items()):
        known = [(position, estimate) for position, estimate in enumerate(estimates) if estimate is not None]
        xs = [position - 0.4 + (index + 0.5) * width for position, _ in known]
        values = np.array([estimate.value for _, estimate in known])
        errors = [values - [e.low for _, e in known], [e.high for _, e in known] - values]
        ax.bar(xs, values, width, color=COLORS[index % len(COLORS)], label=name, alpha=0.85)
        ax.errorbar(xs, values, yerr=np.abs(errors), color="#333333", capsize=2, linewidth=0.9, linestyle="none")
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.set(ylim=(0, 1.02), ylabel="success rate")
    style_axes(ax)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def training_figure(studies: dict[str, Study]) -> Figure:
    """Success against sampled trajectories: greedy on held-out scenes (above), sampled in training (below)."""
    figure = Figure(figsize=(7.5, 5.6), dpi=_DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for (color, style), (label, study) in zip(_looks(), studies.items(), strict=False):
        for index, trial in enumerate(study.trials):
            trajectories = _trajectories(trial)
            greedy = [(trajectories.get(e.iteration), e.success_rate) for e in trial.evaluations]
            greedy = [point for point in greedy if point[0] is not None]
            name = label if index == 0 else None
            if greedy:
                look = {"color": color, "linestyle": style, "marker": "o", "markersize": 3, "linewidth": 1.3}
                above.plot(*zip(*greedy, strict=True), **look, label=name)
            sampled = [
                (trajectories[iteration], rate)
                for iteration, rate in trial.series(f"env_runners/{metrics.SUCCESS_RATE}")
                if iteration in trajectories
            ]
            if sampled:
                look = {"color": color, "linestyle": style, "linewidth": 1.0}
                below.plot(*zip(*sampled, strict=True), **look, label=None if greedy else name)
    above.set(ylabel="greedy, held-out scenes", ylim=(-0.02, 1.02))
    below.set(ylabel="sampled, training scenes", ylim=(-0.02, 1.02), xlabel="trajectories played")
    for ax in (above, below):
        style_axes(ax)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def seen_unseen_figure(paths: dict[str, list[list[tuple[float, float]]]]) -> Figure:
    """Success on unseen tasks against success on seen ones in the course of training, one line per seed.

    Args:
        paths: Arm's label -> one list of (seen, unseen) per seed, in the order of training.
    """
    figure = Figure(figsize=(5.2, 4.4), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    for (color, style), (label, lines) in zip(_looks(), paths.items(), strict=False):
        for index, points in enumerate(lines):
            name = label if index == 0 else None
            look = {"color": color, "linestyle": style, "marker": ".", "linewidth": 1.2}
            ax.plot(*zip(*points, strict=True), **look, label=name)
            ax.plot(*points[-1], color=color, marker="o", markersize=6)
    ax.set(xlabel="success on seen tasks", ylabel="success on unseen tasks")
    style_axes(ax)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def shares_figure(labels: list[str], shares: dict[str, list[float]]) -> Figure:
    """Stacked shares, one row per label."""
    figure = Figure(figsize=(7.5, 1.2 + 0.4 * len(labels)), dpi=_DPI, layout="constrained")
    ax = figure.subplots()
    left = np.zeros(len(labels))
    for color, (name, values) in zip(COLORS, shares.items(), strict=False):
        ax.barh(range(len(labels)), values, left=left, color=color, label=name, height=0.7)
        left += np.array(values)
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="share of successful episodes")
    style_axes(ax)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _looks() -> Iterator[tuple[str, str]]:
    """Colours, and once these are used up, other line styles."""
    return ((color, style) for style in itertools.cycle(_LINE_STYLES) for color in COLORS)


def _trajectories(trial: TrialResults) -> dict[int, float]:
    """Returns iteration -> trajectories played until then."""
    counted = trial.series(f"env_runners/{metrics.NUM_TRAJECTORIES_LIFETIME}")
    return {0: 0.0} | dict(counted)
