"""The report of an experiment: what was asked, what came out, with intervals, beside the paper's numbers."""

from __future__ import annotations

from pathlib import Path

from rllib_vla.evaluation.comparison import Estimate, success_estimate
from rllib_vla.evaluation.report import EvaluationReport
from rllib_vla.experiments import figures, findings
from rllib_vla.experiments.behaviour_report import behaviour_sections
from rllib_vla.experiments.engine import describe
from rllib_vla.experiments.generalisation_report import generalisation_sections
from rllib_vla.experiments.paper import RESULTS
from rllib_vla.experiments.results import RunResults, load_run
from rllib_vla.logging.result_view import format_duration
from rllib_vla.reporting.page import Section, figure_section, write_pages


def write_experiment_report(directory: Path, out: Path) -> tuple[Path, Path]:
    """Writes ``report.html`` and ``report.md`` of a run, finished or not, into `out`.

    Raises:
        ValueError: `directory` holds no run.
    """
    run = load_run(directory)
    return write_pages(run.title, make_sections(run, out), out)


def make_sections(run: RunResults, out: Path) -> list[Section]:
    """Returns what the report says, in order; files that it needs go to `out`."""
    sections = [_overview(run)]
    first = (_findings(run), _success(run), _success_figure(run))
    sections += [section for section in first if section is not None]
    sections += generalisation_sections(run)
    sections += behaviour_sections(run, out)
    sections += [section for section in (_per_task(run), _training(run), _paper(run)) if section is not None]
    return [*sections, _stages(run), Section("The experiment file", listing=_listing(run))]


def _overview(run: RunResults) -> Section:
    states = run.stage_states()
    done = [seconds for _, state, seconds in states if state == "finished"]
    complete = len(done) == len(states)
    facts = [
        ["state", "finished" if complete else f"unfinished: {len(done)} of {len(states)} stages are done"],
        ["arms", ", ".join(run.arms.values()) if len(run.arms) > 1 else ""],
        ["seeds", f"{len(run.seeds)} ({', '.join(map(str, run.seeds))})"],
        ["time of finished stages", format_duration(sum(done)) if done else ""],
    ]
    return Section("What is asked", run.question, table=(["", ""], [row for row in facts if row[1]]))


def _findings(run: RunResults) -> Section | None:
    if run.report.before is None and run.report.baseline is None:
        return None  # nothing is compared
    statements = findings.statements(run)
    paper = RESULTS.get(run.report.paper or "")
    claim = run.report.claim or (paper.finding if paper else "")
    rows = [[claim, "the paper"]] if claim else []
    rows += [[statement, "computed from this run"] for statement in statements]
    rows += [["Nothing can be said yet: no pair of evaluations is finished.", ""]] if not statements else []
    return Section("Findings", findings.explanation(run), table=(["statement", "source"], rows))


def _success(run: RunResults) -> Section | None:
    stages = run.evaluation_stages()
    has_gain = run.report.before is not None and run.report.after is not None
    header = ["arm", *(stage.replace("_", " ") for stage in stages), *(["gain (percentage points)"] * has_gain)]
    rows = []
    for arm, label in run.arms.items():
        estimates = [_estimate(run, arm, stage) for stage in stages]
        if any(estimates):
            gain = findings.gain(run, arm)
            rows.append([label, *map(_percent, estimates), "" if gain is None else gain.percent("+")][: len(header)])
    if not rows:
        return None
    text = (
        f"Success in percent with 95 % intervals, {_decoding(run)}. Intervals cover the choice of scenes (Wilson's) "
        "and, with three seeds or more, the spread of trainings (Student's), whichever reaches further."
    )
    return Section("Success", text + _lost_episodes(run), table=(header, rows))


def _lost_episodes(run: RunResults) -> str:
    lost = sum(
        EvaluationReport.load(run.folder(node)).num_simulator_failures
        for node, state, _ in run.stage_states()
        if node.kind.name == "evaluate" and state == "finished"
    )
    return f" {lost} episodes were lost to failed simulators and do not count." if lost else ""


def _success_figure(run: RunResults) -> Section | None:
    stages = [stage for stage in run.evaluation_stages() if any(_estimate(run, arm, stage) for arm in run.arms)]
    if not stages:
        return None
    series = {stage.replace("_", " "): [_estimate(run, arm, stage) for arm in run.arms] for stage in stages}
    return figure_section("", "", "success", figures.bars_figure(list(run.arms.values()), series))


def _per_task(run: RunResults) -> Section | None:
    stage = run.report.after
    reports = {arm: run.evaluation(arm, run.seeds[0], stage) for arm in run.arms} if stage else {}
    tasks = list(dict.fromkeys(task for report in reports.values() if report is not None for task in report.per_task))
    if len(tasks) < 2:
        return None
    rows = []
    for task in tasks:
        cells = []
        for arm in run.arms:
            counts = run.counts(arm, stage, (task,))
            cells.append(_percent(success_estimate(list(counts.values())) if counts else None))
        rows.append([task, *cells])
    return Section("Tasks", f"Evaluation “{stage}”.", table=(["task", *run.arms.values()], rows))


def _training(run: RunResults) -> Section | None:
    studies = {label: study for arm, label in run.arms.items() if (study := run.trainings(arm)) is not None}
    if not studies:
        return None
    text = (
        "Every line is one training. Sampled success depends on the rollout temperature of the arm; greedy success "
        "does not. Trajectories of dropped groups count."
    )
    return figure_section("Training", text, "training", figures.training_figure(studies))


def _paper(run: RunResults) -> Section | None:
    paper = RESULTS.get(run.report.paper or "")
    if paper is None:
        return None
    rows = [[row.label, _plain(row.before), _plain(row.after)] for row in paper.rows]
    text = (
        f"{paper.source}: {paper.finding} The paper's model has 7 billion parameters and its own benchmarks: compare "
        "directions, not numbers, where this run has another suite or model."
    )
    table = (["paper", "before RL (%)", "after RL (%)"], rows) if rows else None
    return Section("The paper's numbers", text, table=table)


def _stages(run: RunResults) -> Section:
    rows = [
        [describe(node, run.plan), node.kind.name, state, "" if seconds is None else format_duration(seconds)]
        + [node.folder_name if state != "to do" else ""]
        for node, state, seconds in run.stage_states()
    ]
    text = (
        "Times are those of the last process of a stage, without what interrupted ones took before. Directories are "
        "those in the run's."
    )
    return Section("Stages", text, table=(["stage", "kind", "state", "time", "directory"], rows))


def _listing(run: RunResults) -> str:
    changed = f"# Changed on the command line: {run.config}\n" if run.config not in ("", "{}") else ""
    return changed + run.file


def _decoding(run: RunResults) -> str:
    found = {
        f"“{stage}”: {report.decoding}"
        for stage in run.evaluation_stages()
        for arm in run.arms
        if (report := run.evaluation(arm, run.seeds[0], stage)) is not None
    }
    return ", ".join(sorted(found)) or "not measured yet"


def _estimate(run: RunResults, arm: str, stage: str) -> Estimate | None:
    counts = run.counts(arm, stage)
    return success_estimate(list(counts.values())) if counts else None


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else estimate.percent()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
