"""Experiment files: YAML ``{name: {run, env, config, stop, ...}}`` -> checked `Experiment` objects.

Nothing here starts Ray. All mistakes of a file are collected and raised together.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from envs.mixture import SEPARATOR
from rllib_vla.cli.algorithms import get_algorithm_class, is_own
from rllib_vla.cli.checkpoints import check_checkpoint
from rllib_vla.cli.config_builder import ConfigBuilder
from rllib_vla.cli.environments import check_environment, is_class_path
from rllib_vla.cli.experiment import CheckpointSettings, Experiment
from rllib_vla.cli.extends import EXTENDS
from rllib_vla.cli.problems import InputError, KeyPath, Problem, did_you_mean, nearest
from rllib_vla.cli.resolved_settings import Setting, config_settings, experiment_settings
from rllib_vla.cli.schedulers import FIFO, check_scheduler, make_scheduler
from rllib_vla.cli.search_space import sampler_of
from rllib_vla.cli.stop_criteria import flatten_stop, name_mistake, needs_evaluation
from rllib_vla.cli.value_types import ValueTypeError, check_value, import_dotted
from rllib_vla.cli.yaml_lines import Document
from rllib_vla.logging.loggers import LOGGERS, missing_package, unknown_arguments
from rllib_vla.logging.result_view import EVALUATION_SUCCESS

DEFAULT_STORAGE_PATH = "runs"

_KEYS: dict[str, Any] = {
    EXTENDS: str,
    "run": str,
    "env": str | list[str] | None,  # a list is a mixture of suites
    "config": dict | None,
    "stop": dict | None,
    "num_samples": int,
    "checkpoint_config": dict | None,
    "storage_path": str,
    "resources_per_trial": dict | None,
    "max_failures": int,
    "restore": str | None,
    "max_concurrent_trials": int | None,
    "time_budget_s": float | None,
    "scheduler": str,
    "scheduler_config": dict | None,
    "metric": str | None,
    "mode": Literal["max", "min"],
    "loggers": dict | None,
}
_RENAMED = {
    "local_dir": "storage_path",
    "upload_dir": "storage_path",
    "algo": "run",
    "algorithm": "run",
    "checkpoint_freq": "checkpoint_config.checkpoint_frequency",
    "checkpoint_at_end": "checkpoint_config.checkpoint_at_end",
    "keep_checkpoints_num": "checkpoint_config.num_to_keep",
    "checkpoint_score_attr": "checkpoint_config.checkpoint_score_attribute",
}
# Key of checkpoint_config -> (attribute of CheckpointSettings, type).
_CHECKPOINT_KEYS: dict[str, tuple[str, Any]] = {
    "checkpoint_frequency": ("frequency", int),
    "checkpoint_at_end": ("at_end", bool),
    "num_to_keep": ("num_to_keep", int | None),
    "checkpoint_score_attribute": ("score_attribute", str | None),
    "checkpoint_score_order": ("score_order", Literal["max", "min"]),
}
_SCORE = ("checkpoint_config", "checkpoint_score_attribute")
_RESOURCES = ("cpu", "gpu", "memory")  # besides those that a cluster names itself
_LEAST = {"num_samples": 1, "max_concurrent_trials": 1, "checkpoint_frequency": 0, "num_to_keep": 1}


def parse_experiments(
    document: Document,
    config_overrides: dict[str, Any] | None = None,
    base_config: AlgorithmConfig | None = None,
) -> list[Experiment]:
    """Checks a document and builds its experiments.

    Args:
        document: Experiments by name.
        config_overrides: Config settings that win over what the document says.
        base_config: Config object that the document's settings start from (Python files); it also says which
            algorithm runs.

    Raises:
        InputError: With every mistake in the document.
    """
    problems = list(document.problems)
    if not isinstance(document.data, dict) or not document.data:
        message = "holds no experiment: expected '<name>: {run: ..., env: ..., config: {...}}'"
        raise InputError([Problem(message, line=document.line(()), source=document.source)])
    if misplaced := [key for key in document.data if key in ("run", "env", "config", "stop")]:
        message = "is a setting of an experiment: write '<name>:' above and indent all of it"
        raise InputError([*problems, document.problem((misplaced[0],), message)])
    experiments = []
    for name, spec in document.data.items():
        reader = _ExperimentReader(document, str(name), spec, (name,), config_overrides or {}, base_config)
        experiment = reader.read()
        problems += reader.problems
        experiments.append(experiment)
    if problems:
        raise InputError(problems)
    return [experiment for experiment in experiments if experiment is not None]


def absolute_storage_path(path: str) -> str:
    """Returns a local path absolute, and a remote one (``s3://...``) unchanged."""
    return path if "://" in path else str(Path(path).expanduser().resolve())


def _default_checkpoints(config: AlgorithmConfig, *, ranks_by_success: bool) -> CheckpointSettings:
    """A checkpoint for each evaluation, and the best of them kept, so that the best policy is not lost."""
    if not config.evaluation_interval:
        return CheckpointSettings()
    score = EVALUATION_SUCCESS if ranks_by_success else None
    return CheckpointSettings(frequency=config.evaluation_interval, score_attribute=score)


class _ExperimentReader:
    """Reads one experiment of a document and collects its problems."""

    def __init__(
        self,
        document: Document,
        name: str,
        spec: Any,
        path: KeyPath,
        overrides: dict[str, Any],
        base_config: AlgorithmConfig | None,
    ):
        self.problems: list[Problem] = []
        self._base_config = base_config
        document.origins[(*path, "--config")] = "--config"
        self._document = document
        self._name = name
        self._spec = spec
        self._path = path
        self._overrides = overrides

    def read(self) -> Experiment | None:
        if not re.fullmatch(r"[^/\\\s][^/\\]*", self._name):
            message = "an experiment's name becomes a directory: it must not contain slashes or begin with a space"
            self._report((), message)
        if not isinstance(self._spec, dict):
            self._report((), "expected a mapping with 'run', 'env', 'config', 'stop', ...")
            return None
        values = self._read_keys()
        stop = flatten_stop(values.get("stop") or {}, lambda path, text: self._report(("stop", *path), text))
        given_checkpoints = self._read_checkpoints(values.get("checkpoint_config") or {})
        restore = self._read_restore(values.get("restore"))
        self._check_resources(values.get("resources_per_trial") or {})
        algo_class = self._read_algorithm(values)
        if algo_class is None:
            return None
        builder = ConfigBuilder(algo_class, self._report, self._base_config)
        if values.get("config") is not None:
            builder.add(values["config"], ("config",))
        if values.get("env") is not None:
            builder.add({"env": _mixture(values["env"])}, ())
        for changed in builder.override(self._overrides, ("--config",)):
            self._document.origins[(*self._path, *changed)] = "--config"
        self._check_environment(builder)
        self._check_evaluation(stop, values, given_checkpoints, builder)
        check_scheduler(values, builder.resolve, builder.flat_keys, self._report)
        loggers = self._read_loggers(values.get("loggers") or {})
        config = builder.build()
        if self.problems:
            return None
        example = builder.first_point()
        if example.env is None and not example.is_offline and example.observation_space is None:
            self._report((), "no environment is given: add 'env: <suite or gymnasium id>'")
            return None
        run = values.get("run", algo_class.__name__)
        checkpoints = _default_checkpoints(example, ranks_by_success=is_own(algo_class))
        for attribute, value in given_checkpoints.items():
            setattr(checkpoints, attribute, value)
        resolved = self._resolved_settings(values | {"run": run}, stop, checkpoints, builder)
        passed_on = ("num_samples", "max_failures", "max_concurrent_trials", "time_budget_s", "metric", "mode")
        return Experiment(
            name=self._name,
            run=run,
            algo_class=algo_class,
            config=config,
            example_config=example,
            stop=stop,
            storage_path=absolute_storage_path(values.get("storage_path", DEFAULT_STORAGE_PATH)),
            checkpoints=checkpoints,
            resources_per_trial=values.get("resources_per_trial"),
            restore=restore,
            scheduler=make_scheduler(
                values.get("scheduler", FIFO), values.get("scheduler_config") or {}, builder.resolve
            ),
            loggers=loggers,
            settings=resolved,
            **{key: values[key] for key in passed_on if key in values},
        )

    def _resolved_settings(
        self, values: dict[str, Any], stop: dict[str, Any], checkpoints: CheckpointSettings, builder: ConfigBuilder
    ) -> list[Setting]:
        def place(path: KeyPath) -> str:
            return self._document.place((*self._path, *path))

        given = {key: value for key, value in values.items() if key not in (EXTENDS, "env", "config")}
        given["stop"] = stop
        given["checkpoint_config"] = {
            key: getattr(checkpoints, attribute) for key, (attribute, _) in _CHECKPOINT_KEYS.items()
        }
        defaults = builder.algo_class.get_default_config()
        return [*experiment_settings(given, self._spec, place), *config_settings(builder.settings(), place, defaults)]

    def _report(self, path: KeyPath, message: str) -> None:
        self.problems.append(self._document.problem((*self._path, *path), message))

    def _read_keys(self) -> dict[str, Any]:
        values = {}
        for key, value in self._spec.items():
            if key not in _KEYS:
                self._report((key,), self._unknown(key))
                continue
            if sampler_of(value) and key != "env":
                self._report((key,), "only 'env' and what is under 'config' can be searched")
                continue
            converted = value if sampler_of(value) else self._convert((key,), value, _KEYS[key])
            if converted is not _REFUSED:
                values[key] = converted
        return values

    def _unknown(self, key: Any) -> str:
        if key in _RENAMED:
            return f"is written '{_RENAMED[key]}' here"
        match = nearest(key, _KEYS)
        if match is None and isinstance(key, str):
            return f"unknown key; {did_you_mean(key, _KEYS)}. Settings of the algorithm go under 'config'"
        return f"unknown key; did you mean '{match}'?"

    def _convert(self, path: KeyPath, value: Any, annotation: Any) -> Any:
        try:
            converted = check_value(value, annotation)
        except ValueTypeError as error:
            self._report(path, str(error))
            return _REFUSED
        least = _LEAST.get(path[-1])
        if least is not None and converted is not None and converted < least:
            self._report(path, f"must be at least {least}, got {converted}")
            return _REFUSED
        return converted

    def _read_algorithm(self, values: dict[str, Any]) -> type | None:
        if self._base_config is not None:
            return self._base_config.algo_class
        if "run" not in self._spec:
            self._report((), "'run' is missing: which algorithm (for example 'run: GRPO')?")
        if "run" not in values:
            return None
        try:
            return get_algorithm_class(values["run"])
        except InputError as error:
            self._report(("run",), error.problems[0].message)
            return None

    def _check_evaluation(
        self, stop: dict[str, Any], values: dict[str, Any], checkpoints: dict[str, Any], builder: ConfigBuilder
    ) -> None:
        """Reports results that are waited for and never come, because nothing is evaluated."""
        if builder.value("evaluation_interval"):
            return
        given = values.get("stop") or {}
        if builder.path("evaluation_interval") and not all(map(needs_evaluation, stop)):
            stop = {}  # evaluation is switched off, and something else ends the run
        names = [(("stop", *([key] if key in given else key.split("/"))), key) for key in stop]
        names += [(("metric",), values.get("metric")), (_SCORE, checkpoints.get("score_attribute"))]
        for path, name in names:
            if name and needs_evaluation(name) and not name_mistake(name):
                message = "is never reported: nothing is evaluated; set 'evaluation_interval' under 'config'"
                self._report(path, message)

    def _check_environment(self, builder: ConfigBuilder) -> None:
        env, path = builder.value("env"), builder.path("env")
        if not isinstance(env, str):
            return
        message, match = check_environment(env)
        if message is None and is_class_path(env):
            # RLlib's single-agent runner would take the dotted name for a gymnasium id.
            builder.override({"env": import_dotted(env)}, path[:-1])
        if message:
            self._report(path, message)
            if match:
                # Go on with what was probably meant, so that all other mistakes are found as well.
                builder.override({"env": match}, path[:-1])

    def _read_checkpoints(self, given: dict) -> dict[str, Any]:
        attributes = {}
        for key, value in given.items():
            path = ("checkpoint_config", key)
            if key not in _CHECKPOINT_KEYS:
                self._report(path, f"unknown key; {did_you_mean(key, _CHECKPOINT_KEYS)}")
                continue
            attribute, annotation = _CHECKPOINT_KEYS[key]
            converted = self._convert(path, value, annotation)
            if converted is _REFUSED:
                continue
            if attribute == "score_attribute" and converted and (message := name_mistake(converted)):
                self._report(path, message)
            attributes[attribute] = converted
        return attributes

    def _read_restore(self, value: str | None) -> Path | None:
        if value is None:
            return None
        path = Path(value).expanduser().resolve()
        message = check_checkpoint(path)
        if message:
            self._report(("restore",), message)
        return path

    def _read_loggers(self, given: dict) -> dict[str, dict[str, Any]]:
        loggers = {}
        for name, arguments in given.items():
            path = ("loggers", name)
            if name not in LOGGERS:
                self._report(path, f"unknown logger; {did_you_mean(name, LOGGERS)}")
            elif not isinstance(arguments, dict | None):
                self._report(path, "expected a mapping of its arguments, or nothing")
            elif package := missing_package(name):
                self._report(path, f"needs a package that is not installed: pip install {package}")
            else:
                unknown, known = unknown_arguments(name, arguments or {})
                for key in unknown:
                    self._report((*path, key), f"unknown argument; {did_you_mean(key, known)}")
                loggers[name] = arguments or {}
        return loggers

    def _check_resources(self, resources: dict) -> None:
        for key, value in resources.items():
            match = nearest(key, _RESOURCES, cutoff=0.8)
            if match and key != match:
                self._report(("resources_per_trial", key), f"unknown resource; did you mean '{match}'?")
            if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
                self._report(("resources_per_trial", key), f"expected a number of at least 0, got {value!r}")


def _mixture(env: Any) -> Any:
    """A list of suites names their mixture."""
    return SEPARATOR.join(env) if isinstance(env, list) else env


_REFUSED = object()
