"""Alternating measurements: A B A B ..., medians, ratios against the first variant."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal


class NotAvailableError(RuntimeError):
    """A benchmark lacks what it needs on this machine."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured figure beside its baseline.

    Attributes:
        what: What was measured.
        value: Median over the rounds, in `unit`.
        baseline: What it is compared with.
        baseline_value: Median of the baseline over the same rounds, in `unit`.
        unit: E.g. "ms" or "trajectories/s".
        ratio: How many times as fast as the baseline ("speedup"), or which part of it ("share").
        ratio_range: Lowest and highest ratio of a single round.
        kind: What `ratio` means.
    """

    what: str
    value: float
    baseline: str
    baseline_value: float
    unit: str
    ratio: float
    ratio_range: tuple[float, float]
    kind: Literal["speedup", "share"] = "speedup"


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of doing the work.

    Attributes:
        name: Shown in the table.
        run: Does the work once; this is timed.
        prepare: Called before each `run`, not timed.
        pieces: How many times `run` does what the other variants do once; its time is divided by it.
    """

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] | None = None
    pieces: int = 1


def compare(
    variants: Sequence[Variant], *, rounds: int, amount: float = 1, rate_unit: str | None = None
) -> list[Figure]:
    """Times all variants in turn, round after round, so that drifts of the machine meet all of them.

    Args:
        variants: The baseline first. Each runs once unmeasured before the first round.
        rounds: Measured runs per variant.
        amount: Pieces of work in one run; figures are per piece.
        rate_unit: Report `amount` per second in this unit; None: milliseconds per piece.

    Returns:
        One figure per variant other than the baseline.
    """
    for variant in variants:
        _time(variant)
    seconds = [[_time(variant) for variant in variants] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    values = [amount / median if rate_unit else 1000 * median / amount for median in medians]
    return [
        Figure(
            what=variants[i].name,
            value=values[i],
            baseline=variants[0].name,
            baseline_value=values[0],
            unit=rate_unit or "ms",
            ratio=medians[0] / medians[i],
            ratio_range=_range([row[0] / row[i] for row in seconds]),
        )
        for i in range(1, len(variants))
    ]


def share_of(what: str, value: float, baseline: str, baseline_value: float, unit: str) -> Figure:
    """Returns one value as a share of another; see `Figure` for the arguments."""
    ratio = value / baseline_value
    return Figure(what, value, baseline, baseline_value, unit, ratio, (ratio, ratio), kind="share")


def shares(parts: Sequence[dict[str, float]], wholes: Sequence[float], *, whole: str) -> list[Figure]:
    """Turns the seconds of the parts of several runs into medians and shares of the whole.

    Args:
        parts: Per run, seconds of each part; a missing part took no time.
        wholes: Per run, seconds of the whole.
        whole: Name of the whole.

    Returns:
        One figure per part, in the order in which the parts first appear.
    """
    figures = []
    for name in dict.fromkeys(name for run in parts for name in run):
        seconds = [run.get(name, 0.0) for run in parts]
        ratios = [part / total for part, total in zip(seconds, wholes, strict=True)]
        figures.append(
            Figure(
                what=name,
                value=1000 * statistics.median(seconds),
                baseline=whole,
                baseline_value=1000 * statistics.median(wholes),
                unit="ms",
                ratio=statistics.median(ratios),
                ratio_range=_range(ratios),
                kind="share",
            )
        )
    return figures


def _time(variant: Variant) -> float:
    if variant.prepare is not None:
        variant.prepare()
    start = time.perf_counter()
    variant.run()
    return (time.perf_counter() - start) / variant.pieces


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
