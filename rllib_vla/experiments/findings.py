"""What the numbers of a run say, in sentences that are computed from them."""

from __future__ import annotations

from rllib_vla.evaluation.comparison import MIN_SEEDS_FOR_SPREAD, Count, Estimate, difference_estimate
from rllib_vla.experiments.results import RunResults


def gain(run: RunResults, arm: str) -> Estimate | None:
    """Returns how much higher success is after reinforcement learning than before, over the seeds that have both."""
    if run.report.before is None or run.report.after is None:
        return None
    return difference(run.counts(arm, run.report.before), run.counts(arm, run.report.after))


def against_baseline(run: RunResults, arm: str) -> Estimate | None:
    """Returns how much higher the final success of an arm is than that of the baseline arm."""
    if run.report.baseline is None or run.report.after is None or arm == run.report.baseline:
        return None
    return difference(run.counts(run.report.baseline, run.report.after), run.counts(arm, run.report.after))


def difference(first: dict[int, Count], second: dict[int, Count]) -> Estimate | None:
    """Returns how much higher the second rates are, over the seeds that have both (seed -> count); None without any."""
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    return difference_estimate([first[seed] for seed in seeds], [second[seed] for seed in seeds])


def statements(run: RunResults) -> list[str]:
    """Returns sentences about gains and differences between arms; none without finished evaluations."""
    found = []
    for arm, label in run.arms.items():
        name = label if len(run.arms) > 1 else "all"
        if (estimate := gain(run, arm)) is not None:
            found.append(f"{name}: reinforcement learning changes success by {_words(estimate)}.")
    for arm, label in run.arms.items():
        if (estimate := against_baseline(run, arm)) is not None:
            baseline = run.arms[run.report.baseline]
            found.append(f"{label}, compared with {baseline}: final success differs by {_words(estimate)}.")
    return found


def explanation(run: RunResults) -> str:
    """Returns how the intervals are to be read."""
    if len(run.seeds) >= MIN_SEEDS_FOR_SPREAD:
        return (
            "Intervals (95 %) cover the choice of scenes (Newcombe's) and, where three seeds or more are done, the "
            "spread of trainings (Student's over the differences of equal seeds): whichever reaches further."
        )
    return (
        f"With {len(run.seeds)} seed{'s' * (len(run.seeds) > 1)} the intervals (95 %, Newcombe's) cover the choice of "
        "scenes only. Trainings with other seeds differ by more: a difference that is shown here holds for these "
        "trainings, not for the method."
    )


def _words(estimate: Estimate) -> str:
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    seeds = f"{estimate.num_seeds} seed{'s' * (estimate.num_seeds > 1)}"
    verdict = "a difference" if estimate.excludes_zero else "no difference is shown: the interval contains 0"
    return f"{value:+.1f} percentage points (95 % interval {low:+.1f} to {high:+.1f}, {seeds}): {verdict}"
