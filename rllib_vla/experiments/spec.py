"""A checked experiment file: arms, each a chain of stages, over seeds; plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rllib_vla.cli.problems import InputError, Problem, did_you_mean
from rllib_vla.experiments.kinds.base import StageKind


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """One stage of one arm.

    Attributes:
        name: Name in the file.
        kind: What it does.
        settings: Complete settings, without inputs.
        inputs: Input key -> name of the stage that makes it, or a path (or hub id).
    """

    name: str
    kind: StageKind
    settings: dict[str, Any]
    inputs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the alternatives that are compared.

    Attributes:
        name: Name in the file.
        label: How tables and figures call it.
        stages: By name, every stage after those it needs.
    """

    name: str
    label: str
    stages: dict[str, StageSpec]


@dataclasses.dataclass(frozen=True)
class ReportSpec:
    """What the report compares.

    Attributes:
        before: Evaluation stage of the policy that reinforcement learning starts from.
        after: Evaluation stage of the policy at the end.
        baseline: Arm that the other arms are compared with.
        unseen_tasks: Tasks that no training stage saw; success is then reported for seen and unseen tasks apart.
        curve: Evaluation stages in the order of training, for arms without reinforcement learning.
        paper: Table or figure of the paper whose numbers stand beside, see `paper.RESULTS`.
        claim: What the paper finds, in one sentence.
    """

    before: str | None = None
    after: str | None = None
    baseline: str | None = None
    unseen_tasks: tuple[str, ...] = ()
    curve: tuple[str, ...] = ()
    paper: str | None = None
    claim: str = ""


@dataclasses.dataclass(frozen=True)
class ExperimentSpec:
    """A whole experiment.

    Attributes:
        name: Name in the file, and of its directory.
        title: Title of the report.
        question: What is asked.
        seeds: Seeds of the trained stages.
        arms: In the order of the file.
        report: What is compared.
    """

    name: str
    title: str
    question: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    report: ReportSpec

    def with_arms(self, names: Sequence[str]) -> ExperimentSpec:
        """Returns the experiment without the other arms; a baseline among them is none any more.

        Raises:
            InputError: There is no arm of a name.
        """
        known = [arm.name for arm in self.arms]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError([Problem(f"no arm '{name}', {did_you_mean(name, known)}") for name in unknown])
        baseline = self.report.baseline if self.report.baseline in names else None
        return dataclasses.replace(
            self,
            arms=tuple(arm for arm in self.arms if arm.name in names),
            report=dataclasses.replace(self.report, baseline=baseline),
        )
