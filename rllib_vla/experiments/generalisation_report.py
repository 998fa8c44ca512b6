"""Seen and unseen tasks: does training on some tasks help on another one, or make the policy forget it?"""

from __future__ import annotations

from rllib_vla import metrics
from rllib_vla.evaluation.comparison import Estimate, success_estimate
from rllib_vla.evaluation.report import SuccessSummary
from rllib_vla.experiments import figures, findings
from rllib_vla.experiments.results import RunResults
from rllib_vla.reporting.page import Section, figure_section

_IN_TRAINING = ("evaluation_at_start", "evaluation")


def generalisation_sections(run: RunResults) -> list[Section]:
    """Returns a table and a figure; nothing for experiments without unseen tasks."""
    unseen = run.report.unseen_tasks
    if not unseen:
        return []
    rows = []
    for arm, label in run.arms.items():
        stages = [run.report.before, *(run.report.curve if _has_curve(run, arm) else [run.report.after])]
        for stage in dict.fromkeys(stage for stage in stages if stage):
            split = [_success(run, arm, stage, seen=seen) for seen in (True, False)]
            if all(split):
                change = _change(run, arm, stage)
                rows.append([label, stage.replace("_", " "), *(estimate.percent() for estimate in split), change])
    text = f"Unseen: {', '.join(unseen)}. Success in percent with 95 % intervals; changes in percentage points."
    table = (["arm", "evaluation", "seen tasks", "unseen tasks", "unseen, change since before"], rows)
    sections = [Section("Seen and unseen tasks", text, table=table)] if rows else []
    paths = {label: lines for arm, label in run.arms.items() if (lines := _paths(run, arm))}
    if paths:
        text = "In the course of training; the larger dot is the end. One line per seed."
        sections.append(figure_section("", text, "seen_unseen", figures.seen_unseen_figure(paths)))
    return sections


def _has_curve(run: RunResults, arm: str) -> bool:
    return any(stage in run.plan.runs[arm, run.seeds[0]] for stage in run.report.curve)


def _tasks(run: RunResults, arm: str, stage: str, *, seen: bool) -> tuple[str, ...]:
    unseen = run.report.unseen_tasks
    names = dict.fromkeys(task for report in run.evaluations(arm, stage).values() for task in report.per_task)
    return tuple(name for name in names if (name not in unseen) == seen)


def _success(run: RunResults, arm: str, stage: str, *, seen: bool) -> Estimate | None:
    counts = run.counts(arm, stage, _tasks(run, arm, stage, seen=seen))
    return success_estimate(list(counts.values())) if counts else None


def _change(run: RunResults, arm: str, stage: str) -> str:
    before = run.report.before
    if before is None or stage == before:
        return ""
    unseen = run.report.unseen_tasks
    first, second = run.counts(arm, before, unseen), run.counts(arm, stage, unseen)
    e = findings.difference(first, second)
    return "" if e is None else e.percent("+")


def _paths(run: RunResults, arm: str) -> list[list[tuple[float, float]]]:
    """One list of (seen, unseen) per seed: evaluations of the curve, else those that training made itself."""
    if _has_curve(run, arm):
        return [points for seed in run.seeds if len(points := _curve_points(run, arm, seed)) > 1]
    study = run.trainings(arm)
    lines = []
    for trial in study.trials if study is not None else ():
        points = []
        for prefix, results in zip(_IN_TRAINING, (trial.results[:1], trial.results), strict=True):
            for result in results:
                pair = [
                    result.get(f"{prefix}/{key}") for key in (metrics.SEEN_SUCCESS_RATE, metrics.UNSEEN_SUCCESS_RATE)
                ]
                if all(isinstance(value, int | float) and value == value for value in pair):
                    points.append((float(pair[0]), float(pair[1])))
        if points:
            lines.append(points)
    return lines


def _curve_points(run: RunResults, arm: str, seed: int) -> list[tuple[float, float]]:
    points = []
    for stage in dict.fromkeys((run.report.before, *run.report.curve)):
        report = run.evaluation(arm, seed, stage) if stage else None
        if report is None:
            continue
        rates = []
        for seen in (True, False):
            episodes = [e for e in report.episodes if (e.task not in run.report.unseen_tasks) == seen]
            rates.append(SuccessSummary.of(episodes).success_rate if episodes else float("nan"))
        points.append((rates[0], rates[1]))
    return points
