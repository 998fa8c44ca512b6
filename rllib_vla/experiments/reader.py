"""Reads and checks experiment files: stages, arms and seeds. Nothing here starts anything.

``extends: FILE`` starts from another experiment. Stages are merged key by key (``null`` leaves one out); `arms` and
`report`, which name each other, replace those of the other file as a whole.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import envs
from envs.base import UnavailableError
from rllib_vla.cli.documents import relative_to
from rllib_vla.cli.extends import EXTENDS, resolve_extends
from rllib_vla.cli.problems import InputError, KeyPath, Problem, did_you_mean
from rllib_vla.cli.search_space import merge
from rllib_vla.cli.value_types import ValueTypeError, check_value
from rllib_vla.cli.yaml_lines import Document, load_yaml
from rllib_vla.experiments.kinds import KINDS, StageKind
from rllib_vla.experiments.kinds.base import StageText
from rllib_vla.experiments.kinds.grpo import taken_over
from rllib_vla.experiments.paper import RESULTS
from rllib_vla.experiments.spec import Arm, ExperimentSpec, ReportSpec, StageSpec
from rllib_vla.model_path import PROJECT_ROOT, resolve_model_path

_KEYS: dict[str, Any] = {
    EXTENDS: str,
    "title": str,
    "question": str,
    "seeds": list[int],
    "stages": dict,
    "arms": dict | None,
    "report": dict | None,
}
_REPORT_KEYS: dict[str, Any] = {
    "before": str | None,
    "after": str | None,
    "baseline": str | None,
    "unseen_tasks": list[str],
    "curve": list[str],
    "paper": str | None,
    "claim": str,
}
_LABEL, _KIND = "label", "kind"
_REPLACED = ("arms", "report")  # not merged with those of an extended file
# Settings of simulators that do not change what an evaluation plays.
_WITHOUT_EFFECT = ("num_train_seeds", "render_device", "setup_timeout_s", "step_timeout_s", "close_timeout_s")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def load_experiment(path: str | Path, overrides: dict[str, Any] | None = None) -> ExperimentSpec:
    """Reads an experiment file.

    Args:
        path: YAML file with one experiment.
        overrides: Stage -> settings that win over the file's, in all arms.

    Raises:
        InputError: With every mistake in the file.
    """
    return parse_experiment(load_yaml(path), str(path), overrides)


def parse_experiment(document: Document, file: str, overrides: dict[str, Any] | None = None) -> ExperimentSpec:
    """Checks a document that was read from `file`; see `load_experiment`."""
    data = document.data
    if not isinstance(data, dict) or len(data) != 1 or not isinstance(next(iter(data.values())), dict):
        message = "expected one experiment: '<name>: {title: ..., stages: {...}}'"
        raise InputError([*document.problems, Problem(message, source=document.source)])
    _extend(document, file)
    reader = _Reader(document, file, overrides or {})
    spec = reader.read()
    if reader.problems or spec is None:
        raise InputError(_each_once(reader.problems, reader.absent))
    return spec


def experiment_text(path: str | Path) -> str:
    """Returns an experiment file as text, and after it the one that it extends."""
    text = Path(path).read_text(encoding="utf-8")
    (spec,) = load_yaml(path).data.values()
    if EXTENDS in spec:
        base = Path(relative_to(str(path), spec[EXTENDS]))
        text += f"\n# {base.name}, which it extends:\n{base.read_text(encoding='utf-8')}"
    return text


def _extend(document: Document, file: str) -> None:
    """Puts the experiment that the document's extends under it.

    Raises:
        InputError: It cannot be extended.
    """
    ((name, spec),) = document.data.items()
    own_stages = list(spec["stages"]) if isinstance(spec.get("stages"), dict) else []
    base_stages: list[str] = []

    def load(other: str) -> Document:
        path = relative_to(file, other)
        base = load_yaml(path)
        for base_spec in base.data.values() if isinstance(base.data, dict) else ():
            if isinstance(base_spec, dict):
                _anchor(base_spec, str(Path(path).resolve()))
                base_stages.extend(base_spec.get("stages") or ())
                for key in _REPLACED:
                    if key in spec:
                        base_spec.pop(key, None)
        return base

    resolve_extends(document, load)
    stages = document.data[name].get("stages")
    if base_stages and isinstance(stages, dict):
        document.data[name]["stages"] = {key: stages[key] for key in _in_order(own_stages, base_stages)}


def _in_order(own: list[str], base: list[str]) -> list[str]:
    """Returns stages in the order of the extended file; a new one comes right before that which follows it in `own`."""
    order = list(base)
    for place, name in enumerate(own):
        if name not in base:
            following = next((other for other in own[place + 1 :] if other in base), None)
            order.insert(len(order) if following is None else order.index(following), name)
    return order


def _anchor(tree: Any, file: str) -> None:
    """Makes what stages extend absolute: relative paths start from the file that they stand in."""
    for key, value in tree.items():
        if isinstance(value, dict):
            _anchor(value, file)
        elif key == EXTENDS and isinstance(value, str):
            tree[key] = relative_to(file, value)


def _each_once(problems: list[Problem], absent: set[str]) -> list[Problem]:
    """Returns the problems without repetitions; what is absent is told once for all stages that need it."""
    told: dict[Any, Problem] = {}
    for problem in problems:
        told.setdefault(problem.message if problem.message in absent else problem, problem)
    return list(told.values())


class _Reader:
    """Reads one experiment and collects its problems."""

    def __init__(self, document: Document, file: str, overrides: dict[str, Any]):
        self.problems: list[Problem] = list(document.problems)
        self.absent: set[str] = set()
        self._document = document
        self._file = file
        (self._name,) = document.data
        self._spec = document.data[self._name]
        self._overrides = overrides

    def read(self) -> ExperimentSpec | None:
        if not _NAME.fullmatch(str(self._name)):
            self._report((), "an experiment's name becomes a directory: letters, digits, '_', '-' and '.' only")
        values = self._typed(self._spec, _KEYS, ())
        for key in ("title", "stages"):
            if key not in self._spec:
                self._report((), f"'{key}' is missing")
        left_out = {name for name, changes in self._overrides.items() if changes is None}
        stages = {
            name: stage
            for name, stage in (values.get("stages") or {}).items()
            if stage is not None and name not in left_out
        }
        if not stages:
            return None
        for name, stage in stages.items():
            if not isinstance(stage, dict):
                self._report(("stages", name), "expected a mapping with 'kind' and its settings")
                return None
            if not _NAME.fullmatch(str(name)):
                self._report(("stages", name), "letters, digits, '_', '-' and '.' only")
        for name, changes in self._overrides.items():
            if name not in values["stages"]:
                message = f"no stage of this name; {did_you_mean(name, stages)}"
            elif not isinstance(changes, dict | None):
                message = "expected a mapping of settings, or null to leave the stage out"
            else:
                continue
            self.problems.append(Problem(message, path=(name,), source="--config"))
            return None
        arms = [self._read_arm(str(name), arm, stages) for name, arm in (values.get("arms") or {"all": {}}).items()]
        seeds = tuple(dict.fromkeys(values.get("seeds", [0])))
        if not seeds:
            self._report(("seeds",), "names no seed")
        if any(seed < 0 for seed in seeds):
            self._report(("seeds",), "seeds are whole numbers from 0")
        return ExperimentSpec(
            name=str(self._name),
            title=values.get("title", ""),
            question=values.get("question", ""),
            seeds=seeds,
            arms=tuple(arms),
            report=self._read_report(values.get("report") or {}, arms),
        )

    def _report(self, path: KeyPath, message: str) -> None:
        self.problems.append(self._document.problem((self._name, *path), message))

    def _typed(self, given: dict, keys: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Returns the values of known keys with right types; reports the others."""
        values = {}
        for key, value in given.items():
            if key not in keys:
                self._report((*path, key), f"unknown key; {did_you_mean(key, keys)}")
                continue
            try:
                values[key] = check_value(value, keys[key])
            except ValueTypeError as error:
                self._report((*path, key), str(error))
        return values

    # --- arms and stages -----------------------------------------------------------------------------------

    def _read_arm(self, name: str, arm: Any, stages: dict[str, dict]) -> Arm:
        changes = arm or {}
        if not isinstance(changes, dict):
            self._report(("arms", name), "expected a mapping: stage -> settings that differ")
            changes = {}
        if not _NAME.fullmatch(name):
            self._report(("arms", name), "letters, digits, '_', '-' and '.' only")
        for stage in changes:
            if stage != _LABEL and stage not in stages:
                self._report(("arms", name, stage), f"no stage of this name; {did_you_mean(stage, stages)}")
        specs: dict[str, StageSpec] = {}
        for stage, settings in stages.items():
            own = changes.get(stage, {})
            if own is None:  # this arm does without
                continue
            if not isinstance(own, dict):
                self._report(("arms", name, stage), "expected a mapping of settings, or null to leave the stage out")
                own = {}
            everything = copy.deepcopy(merge(merge(settings, own), self._overrides.get(stage) or {}))
            spec = self._read_stage(str(stage), everything, name, specs)
            if spec is not None:
                specs[str(stage)] = spec
        label = changes.get(_LABEL, name.replace("_", " "))
        return Arm(name, str(label), specs)

    def _read_stage(self, stage: str, everything: dict, arm: str, earlier: dict[str, StageSpec]) -> StageSpec | None:
        document = self._stage_document(stage, arm)
        text = StageText(stage, {}, {}, document, self.problems, self._file, self.absent)
        kind = KINDS.get(everything.get(_KIND))
        if kind is None:
            if _KIND not in everything:
                text.report((), f"'kind' is missing: one of {', '.join(KINDS)}")
            else:
                text.report((_KIND,), f"unknown kind; {did_you_mean(everything[_KIND], KINDS)}")
            return None
        for key, value in everything.items():
            if key == _KIND:
                continue
            if key not in kind.keys:
                text.report((key,), f"unknown key of kind '{kind.name}'; {did_you_mean(key, kind.keys)}")
                continue
            try:
                text.values[key] = check_value(value, kind.keys[key])
            except ValueTypeError as error:
                text.report((key,), str(error))
        for key in kind.required:
            if key not in everything:
                text.report((), f"'{key}' is missing")
        if any(key not in text.values for key in kind.required):
            return None
        for key in kind.inputs:
            if text.values.get(key) is not None:
                text.inputs[key] = self._read_input(kind, key, text, earlier)
        return StageSpec(stage, kind, kind.check(text), text.inputs)

    def _read_input(self, kind: StageKind, key: str, text: StageText, earlier: dict[str, StageSpec]) -> str:
        """Returns the name of an earlier stage, an absolute path, or a hub id."""
        value, accepted = text.values[key], kind.inputs[key]
        if "/" not in value:
            source = earlier.get(value)
            if source is None:
                where = "; a folder is written with a slash, './name'"
                text.report((key,), f"no earlier stage '{value}' in this arm; {did_you_mean(value, earlier)}{where}")
            elif source.kind.output not in accepted:
                text.report((key,), f"stage '{value}' makes {source.kind.output or 'nothing'}, needed: {accepted[0]}")
            return value
        try:
            if key == "policy":
                return resolve_model_path(value)
            return _existing_folder(value)
        except FileNotFoundError as error:
            text.report_absent((key,), str(error))
            return value

    def _stage_document(self, stage: str, arm: str) -> Document:
        """Returns a document that knows the lines of a stage: those of the arm win over the shared ones."""
        document = Document({}, self._document.source)
        for prefix in ((self._name, "stages", stage), (self._name, "arms", arm, stage)):
            for path, line in self._document.lines.items():
                if path[: len(prefix)] == prefix:
                    own = (stage, *path[len(prefix) :])
                    document.lines[own] = line
                    document.sources[own] = self._document.sources.get(path, self._document.source)
        for path in _paths(self._overrides[stage]) if self._overrides.get(stage) else ():
            document.origins[(stage, *path)] = "--config"
        return document

    # --- report --------------------------------------------------------------------------------------------

    def _read_report(self, given: dict, arms: list[Arm]) -> ReportSpec:
        values = self._typed(given, _REPORT_KEYS, ("report",))
        stages = {name: stage for arm in arms for name, stage in arm.stages.items()}
        evaluations = [name for name, stage in stages.items() if stage.kind.name == "evaluate"]
        named = [(("report", key), values[key]) for key in ("before", "after") if values.get(key)]
        named += [(("report", "curve", index), name) for index, name in enumerate(values.get("curve", []))]
        for path, name in named:
            if name not in evaluations:
                self._report(path, f"no evaluation stage of this name; {did_you_mean(name, evaluations)}")
        for arm in arms:
            self._check_comparison(arm, values.get("before"), values.get("after"))
        self._check_unseen(values.get("unseen_tasks", []), [stages[name] for _, name in named if name in evaluations])
        names = [arm.name for arm in arms]
        if values.get("baseline") and values["baseline"] not in names:
            self._report(("report", "baseline"), f"no arm of this name; {did_you_mean(values['baseline'], names)}")
        if values.get("paper") and values["paper"] not in RESULTS:
            self._report(("report", "paper"), f"no such result; {did_you_mean(values['paper'], RESULTS)}")
        lists = {key: tuple(values.pop(key)) for key in ("unseen_tasks", "curve") if key in values}
        return ReportSpec(**lists, **values)

    def _check_comparison(self, arm: Arm, before: str | None, after: str | None) -> None:
        """A gain is a gain only if both evaluations play under the same settings."""
        stages = [arm.stages[name] for name in (before, after) if name in arm.stages]
        if [stage.kind.name for stage in stages] != ["evaluate", "evaluate"]:
            return
        first, second = (_played_with(arm, stage) for stage in stages)
        for key in sorted(first.keys() | second.keys()):
            if key not in _WITHOUT_EFFECT and first.get(key) != second.get(key):
                self._report(
                    ("report", "after"),
                    f"arm '{arm.name}' is evaluated under other settings than before, '{key}': {second.get(key)!r} "
                    f"instead of {first.get(key)!r}; an evaluation takes over those of the training: write it in both",
                )

    def _check_unseen(self, unseen: list[str], evaluations: list[StageSpec]) -> None:
        for index, task in enumerate(unseen):
            for stage in evaluations:
                tasks = _played_tasks(stage)
                if tasks and task not in tasks:
                    message = f"'{stage.name}' does not play this task; {did_you_mean(task, tasks)}"
                    self._report(("report", "unseen_tasks", index), message)
                    break


def _played_tasks(stage: StageSpec) -> list[str]:
    """Names of the tasks that an evaluation plays; none where that cannot be told here, which is reported elsewhere."""
    if stage.settings.get("tasks"):
        return stage.settings["tasks"]
    try:
        return [task.name for task in envs.list_tasks(stage.settings["suite"], stage.settings.get("env_config"))]
    except (ValueError, UnavailableError):
        return []


def _played_with(arm: Arm, stage: StageSpec) -> dict[str, Any]:
    """Settings under which an evaluation plays, those included that it takes over from the training of its policy."""
    suite = stage.settings["suite"]
    try:
        settings = envs.config_defaults(suite)
    except ValueError:  # an unknown suite, which is reported elsewhere
        settings = {}
    training = arm.stages.get(stage.inputs["policy"])
    settings["dtype"] = "float32"
    if training is not None and training.kind.name == "grpo":
        settings |= taken_over(training.settings, suite)
    settings |= stage.settings.get("env_config") or {}
    if stage.settings.get("dtype"):
        settings["dtype"] = stage.settings["dtype"]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _existing_folder(path: str) -> str:
    for candidate in (Path(path).expanduser(), PROJECT_ROOT / path):
        if candidate.is_dir():
            return str(candidate.resolve())
    raise FileNotFoundError(
        f"no folder {path}: docs/sft.md says where demonstrations come from; a stage of kind 'demos' makes those of "
        "our own suites"
    )


def _paths(tree: Any, path: KeyPath = ()) -> list[KeyPath]:
    if not isinstance(tree, dict) or not tree:
        return [path]
    return [found for key, value in tree.items() for found in _paths(value, (*path, key))]
