"""Success rates over seeds and differences between them, with 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.stats import t as student_t

from rllib_vla.evaluation.confidence import wilson_interval

Value = TypeVar("Value")

# Seeds from which on the spread between them says something.
MIN_SEEDS_FOR_SPREAD = 3


@dataclass(frozen=True)
class Count:
    """Successes of one evaluation: of one trained policy.

    Attributes:
        successes: Successful episodes; not whole where repeats were averaged.
        episodes: Independent episodes.
    """

    successes: float
    episodes: int

    @property
    def rate(self) -> float:
        """Share of successful episodes."""
        return self.successes / self.episodes


@dataclass(frozen=True)
class Estimate:
    """A success rate, or a difference of two, with its 95 % interval.

    Attributes:
        value: Mean over the seeds.
        low: Lower bound.
        high: Upper bound.
        num_seeds: Seeds behind it.
        over_seeds: Whether the interval covers the spread between seeds besides the choice of scenes. If not, it is too
            narrow: it leaves out how much trainings differ.
    """

    value: float
    low: float
    high: float
    num_seeds: int
    over_seeds: bool

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval."""
        return self.low > 0 or self.high < 0

    def percent(self, sign: str = "") -> str:
        """Value and interval in percent; `sign` ``"+"`` is for differences."""
        value, low, high = (f"{100 * number:{sign}.1f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def distinct(values: Iterable[Value]) -> list[Value]:
    """The objects among `values`, each once, in their order; seeds that share an evaluation share its object."""
    return list({id(value): value for value in values}.values())


def success_estimate(counts: Sequence[Count]) -> Estimate:
    """Success rate over seeds.

    The interval is Wilson's for as many episodes as one evaluation has: all seeds play the same scenes, and more seeds
    do not choose these better. With three seeds or more it reaches at least as far as Student's over the seeds.

    One `Count` object that stands for several seeds, the common start of all, is one evaluation.
    """
    counts = distinct(counts)
    mean = _mean_count(counts)
    low, high = wilson_interval(mean.successes, mean.episodes)
    if len(counts) < MIN_SEEDS_FOR_SPREAD:
        return Estimate(mean.rate, low, high, len(counts), False)
    half = _half_width([count.rate for count in counts])
    low, high = max(0.0, min(low, mean.rate - half)), min(1.0, max(high, mean.rate + half))
    return Estimate(mean.rate, low, high, len(counts), True)


def difference_estimate(first: Sequence[Count], second: Sequence[Count]) -> Estimate:
    """How much higher the success of `second` is.

    The interval is Newcombe's number 10 (1998) for two independent proportions of one evaluation each; both play the
    same scenes, which makes it rather too wide. With three seeds or more it reaches at least as far as Student's
    interval of the differences between equal seeds.

    Args:
        first: One count per seed.
        second: The same seeds in the same order; a single count is compared with each of the others. Seeds that share
            both counts are one comparison.
    """
    if len(first) == 1 or len(second) == 1:
        size = max(len(first), len(second))
        first, second = (list(counts) * size if len(counts) == 1 else counts for counts in (first, second))
    pairs = list({(id(a), id(b)): (a, b) for a, b in zip(first, second, strict=True)}.values())
    a, b = (_mean_count(counts) for counts in zip(*pairs, strict=True))
    difference = b.rate - a.rate
    (low_a, high_a), (low_b, high_b) = (wilson_interval(count.successes, count.episodes) for count in (a, b))
    low = difference - math.hypot(b.rate - low_b, high_a - a.rate)
    high = difference + math.hypot(high_b - b.rate, a.rate - low_a)
    if len(pairs) < MIN_SEEDS_FOR_SPREAD:
        return Estimate(difference, low, high, len(pairs), False)
    half = _half_width([after.rate - before.rate for before, after in pairs])
    return Estimate(difference, min(low, difference - half), max(high, difference + half), len(pairs), True)


def _mean_count(counts: Sequence[Count]) -> Count:
    """The mean rate, in as many episodes as one of the evaluations has."""
    episodes = round(statistics.fmean(count.episodes for count in counts))
    return Count(statistics.fmean(count.rate for count in counts) * episodes, episodes)


def _half_width(values: Sequence[float]) -> float:
    n = len(values)
    return float(student_t.ppf(0.975, n - 1)) * statistics.stdev(values) / math.sqrt(n)
