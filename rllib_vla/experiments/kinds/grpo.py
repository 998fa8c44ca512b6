"""Stage kind `grpo`: reinforcement learning, an experiment of `rllib train file` with one trial."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import yaml
from ray.tune.search.variant_generator import parse_spec_vars

from rllib_vla.cli.checkpoints import find_trials, newest_valid_checkpoint
from rllib_vla.cli.documents import load_document, relative_to
from rllib_vla.cli.experiment import Experiment
from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.experiment_source import resolve_source
from rllib_vla.cli.extends import EXTENDS, resolve_extends
from rllib_vla.cli.problems import InputError, KeyPath
from rllib_vla.cli.yaml_lines import Document
from rllib_vla.experiments.kinds.base import CHECKPOINT, POLICY, RLLIB, StageKind, StageRun, StageText
from rllib_vla.scene_keys import SCENE_KEYS

TRAINING_FOLDER, _FILE = "train", "grpo.yaml"
# Where `config` says what the stage fills in: in a section, or flat.
_MODEL_PATH = (("rl_module", "model_config", "model_path"), ("model_config", "model_path"))
_SEED = (("debugging", "seed"), ("seed",))


class GRPOKind(StageKind):
    """Trains with reinforcement learning; hands on the newest checkpoint, whether it is the best or not."""

    name = "grpo"
    keys = {
        EXTENDS: str,
        "policy": str,
        "run": str,
        "env": str,
        "config": dict | None,
        "stop": dict | None,
        "checkpoint_config": dict | None,
        "resources_per_trial": dict | None,
        "max_failures": int,
    }
    required = ("policy", "stop")
    inputs = {"policy": (POLICY,)}
    output = CHECKPOINT
    uses_seed = True

    def check(self, text: StageText) -> dict[str, Any]:
        document, name = text.document, text.name
        document.data[name] = {key: value for key, value in text.values.items() if key != "policy"}
        config = text.values.get("config") or {}
        for places, what in ((_MODEL_PATH, "write 'policy' beside 'kind'"), (_SEED, "see 'seeds' of the experiment")):
            for place in places:
                if _get(config, place) is not None:
                    text.report(("config", *place), f"does not belong here: {what}")
        try:
            resolve_extends(document, lambda other: _load_as_run(relative_to(text.file, other)))
        except InputError as error:
            for problem in error.problems:
                text.report((EXTENDS,), problem.message)
            return {}
        spec = document.data[name]
        spec.setdefault("run", "GRPO")
        # In place of a policy that an earlier stage makes, something that looks like the name of a public one.
        _fill(spec, _MODEL_PATH, "made-by/another-stage")
        # `null` drops a criterion of the extended file.
        spec["stop"] = {key: value for key, value in (spec.get("stop") or {}).items() if value is not None}
        if not spec["stop"]:
            text.report(("stop",), "names no criterion: the stage would never end")
        settings = {key: value for key, value in copy.deepcopy(spec).items() if key not in (EXTENDS, "storage_path")}
        try:
            (experiment,) = parse_experiments(document)
        except InputError as error:
            text.problems.extend(error.problems)
            return settings
        if experiment.num_samples > 1 or _is_searched(experiment):
            text.report(("config",), "searches several values: an arm of the experiment is the place for each")
        return settings

    def prepare(self, run: StageRun) -> list[str]:
        spec = copy.deepcopy(run.settings)
        _fill(spec, _MODEL_PATH, run.inputs["policy"])
        _fill(spec, _SEED, run.seed)
        spec["storage_path"] = str(run.folder)
        path = run.folder / _FILE
        path.write_text(yaml.safe_dump({TRAINING_FOLDER: spec}, sort_keys=False))
        command = [*RLLIB, "train", "file", str(path)]
        experiment_dir = run.folder / TRAINING_FOLDER
        if experiment_dir.is_dir():
            from ray.tune import Tuner

            if Tuner.can_restore(str(experiment_dir)):
                command.append("--resume")
            else:  # killed before its first snapshot
                shutil.rmtree(experiment_dir)
        return command

    def output_path(self, folder: Path) -> Path:
        training = folder / TRAINING_FOLDER
        return _newest_checkpoint(training)[0] or training

    def missing_output(self, folder: Path) -> str | None:
        checkpoint, reasons = _newest_checkpoint(folder / TRAINING_FOLDER)
        return None if checkpoint else "no usable checkpoint: " + ("; ".join(reasons) or "none was written")


def _load_as_run(source: str) -> Document:
    """Reads a file of `rllib train file` with what it extends itself put in: a stage starts from what would be run."""
    document = load_document(source)
    resolve_source(document, source)
    for name, spec in document.data.items() if isinstance(document.data, dict) else ():
        if isinstance(spec, dict) and spec.pop(EXTENDS, None) is not None:
            del document.lines[(name, EXTENDS)]
    return document


def _newest_checkpoint(training: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint, and why newer ones were passed over."""
    reasons: list[str] = []
    for trial in find_trials(training) if training.is_dir() else ():
        checkpoint, passed_over = newest_valid_checkpoint(trial)
        reasons += passed_over
        if checkpoint is not None:
            return checkpoint, reasons
    return None, reasons


def taken_over(settings: dict[str, Any], suite: str) -> dict[str, Any]:
    """Returns what an evaluation on a suite takes over from a stage's training: simulator settings and `dtype`."""
    config = settings.get("config") or {}

    def setting(section: str, key: str) -> Any:
        return _get(config, (section, key)) or config.get(key)

    found = {"dtype": (setting("rl_module", "model_config") or {}).get("dtype") or "float32"}
    if suite == (settings.get("env") or setting("environment", "env")):
        simulator = setting("environment", "env_config") or {}
        found |= {key: value for key, value in simulator.items() if key not in SCENE_KEYS}
    return found


def _is_searched(experiment: Experiment) -> bool:
    return any(parse_spec_vars(experiment.config.to_dict())[1:])


def _get(tree: Any, path: KeyPath) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _fill(spec: dict[str, Any], places: tuple[KeyPath, ...], value: Any) -> None:
    """Sets a value where the config already has one, else in its section."""
    config = spec["config"] = dict(spec.get("config") or {})
    section, flat = places
    *parents, last = flat if flat[0] in config else section
    node = config
    for key in parents:
        node[key] = dict(node.get(key) or {})
        node = node[key]
    node[last] = value
