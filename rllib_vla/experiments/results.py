"""Reads the directory of an experiment's run, finished or not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rllib_vla.evaluation.comparison import Count, distinct
from rllib_vla.evaluation.report import EvaluationReport, SuccessSummary
from rllib_vla.experiments.engine import FINISHED_FILE, PLAN_FILE, is_finished, stage_state
from rllib_vla.experiments.kinds.grpo import TRAINING_FOLDER
from rllib_vla.experiments.plan import Node, Plan
from rllib_vla.experiments.spec import ReportSpec
from rllib_vla.logging.result_view import read_results
from rllib_vla.reporting.results import Study, load_study

Value, Made = TypeVar("Value"), TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class RunResults:
    """What a run has so far.

    Attributes:
        directory: Of the run.
        title: Title of the report.
        question: What is asked.
        arms: Name -> label.
        seeds: Seeds of the run.
        report: What is compared.
        plan: All stages.
        file: Text of the experiment file that was run.
        config: Settings that won over the file's, as text.
    """

    directory: Path
    title: str
    question: str
    arms: dict[str, str]
    seeds: tuple[int, ...]
    report: ReportSpec
    plan: Plan
    file: str
    config: str

    def folder(self, node: Node) -> Path:
        """Returns a stage's directory."""
        return self.directory / node.folder_name

    def node(self, arm: str, seed: int, stage: str) -> Node | None:
        """Returns a stage of an arm, None if the arm has none of this name."""
        digest = self.plan.runs[arm, seed].get(stage)
        return None if digest is None else self.plan.nodes[digest]

    def evaluation_stages(self) -> list[str]:
        """Returns the names of evaluation stages in the order of the file."""
        return list(dict.fromkeys(n.stage for n in self.plan.nodes.values() if n.kind.name == "evaluate"))

    def evaluation(self, arm: str, seed: int, stage: str) -> EvaluationReport | None:
        """Returns a finished evaluation."""
        node = self.node(arm, seed, stage)
        if node is None or not is_finished(self.folder(node)):
            return None
        return EvaluationReport.load(self.folder(node))

    def evaluations(self, arm: str, stage: str) -> dict[int, EvaluationReport]:
        """Returns seed -> finished evaluation of an arm; seeds that share one evaluation share the object."""
        same: dict[str | None, EvaluationReport | None] = {}
        found: dict[int, EvaluationReport] = {}
        for seed in self.seeds:
            digest = self.plan.runs[arm, seed].get(stage)
            if digest not in same:
                same[digest] = self.evaluation(arm, seed, stage)
            if (report := same[digest]) is not None:
                found[seed] = report
        return found

    def counts(self, arm: str, stage: str, tasks: tuple[str, ...] | None = None) -> dict[int, Count]:
        """Returns seed -> successes of an arm's finished evaluations.

        Args:
            arm: Name of the arm.
            stage: Evaluation stage.
            tasks: Only these; None: all.
        """

        def count(report: EvaluationReport) -> Count | None:
            episodes = [e for e in report.episodes if tasks is None or e.task in tasks]
            return SuccessSummary.of(episodes).count if episodes else None

        return of_each(self.evaluations(arm, stage), count)

    def trainings(self, arm: str) -> Study | None:
        """Returns the reinforcement learning of an arm: one trial per seed; None if none has a result yet."""
        folders = []
        for seed in self.seeds:
            for digest in self.plan.runs[arm, seed].values():
                node = self.plan.nodes[digest]
                path = self.folder(node) / TRAINING_FOLDER
                # A training that has just begun has a file, but no result in it.
                if node.kind.name == "grpo" and any(read_results(file.parent) for file in path.glob("*/result.json")):
                    folders.append(path)
        return load_study(folders) if folders else None

    def stage_states(self) -> list[tuple[Node, str, float | None]]:
        """Returns every stage with its state (finished, begun, to do) and the seconds it took."""
        states = []
        for node in self.plan.nodes.values():
            folder = self.folder(node)
            state = stage_state(folder)
            seconds = json.loads((folder / FINISHED_FILE).read_text())["seconds"] if state == "finished" else None
            states.append((node, state, seconds))
        return states


def of_each(by_seed: dict[int, Value], make: Callable[[Value], Made | None]) -> dict[int, Made]:
    """Returns seed -> `make(value)`, called once for seeds that share the value; without those where it is None."""
    made = {id(value): make(value) for value in distinct(by_seed.values())}
    return {seed: result for seed, value in by_seed.items() if (result := made[id(value)]) is not None}


def load_run(directory: Path) -> RunResults:
    """Reads a run.

    Raises:
        ValueError: Nothing was run there.
    """
    path = directory / PLAN_FILE
    if not path.is_file():
        raise ValueError(f"{directory} holds no run of an experiment; start one with: rllib experiment run NAME")
    values: dict[str, Any] = json.loads(path.read_text())
    spec = values["spec"]
    lists = {key: tuple(spec["report"][key]) for key in ("unseen_tasks", "curve")}
    plan = Plan.from_dict(values)
    return RunResults(
        directory=directory,
        title=spec["title"],
        question=spec["question"],
        arms=spec["arms"],
        seeds=tuple(dict.fromkeys(seed for _, seed in plan.runs)),
        report=ReportSpec(**(spec["report"] | lists)),
        plan=plan,
        file=values["file"],
        config=values["config"],
    )
