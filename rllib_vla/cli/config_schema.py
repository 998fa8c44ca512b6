"""What a config may say: sections, keys and types of an `AlgorithmConfig` class, read from its signatures.

RLlib's own `AlgorithmConfig.update_from_dict` sets unknown keys without a word and lets a mapping overwrite a
method of the same name, so keys are checked here, before anything reaches the config object.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import sys
import types
import typing
from typing import Any

from ray._common.deprecation import DEPRECATED_VALUE
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.from_config import NotProvided

# Names of earlier RLlib versions that people still have in their files.
RENAMED = {
    "num_rollout_workers": "num_env_runners",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "num_learner_workers": "num_learners",
    "num_cpus_per_learner_worker": "num_cpus_per_learner",
    "num_gpus_per_learner_worker": "num_gpus_per_learner",
    "num_sgd_iter": "num_epochs",
    "sgd_minibatch_size": "minibatch_size",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "recreate_failed_workers": "restart_failed_env_runners",
    "min_iter_time_s": "min_time_s_per_iteration",
    "model_config_dict": "model_config",
    "rollouts": "env_runners",
}
# Keys that exist on every config object but describe no setting a file could give.
_INTERNAL = {"algo_class", "in_evaluation"}


@dataclasses.dataclass(frozen=True)
class Argument:
    """One setting.

    Attributes:
        section: The fluent method that sets it (``training``), None for a bare attribute.
        name: Keyword of that method.
        attribute: Attribute of the config object that holds the value.
        annotation: Resolved type hint; `Any` where nothing is known.
        is_own: Whether the algorithm's own config class declares it, not RLlib's `AlgorithmConfig`.
    """

    section: str | None
    name: str
    attribute: str
    annotation: Any
    is_own: bool = False


class ConfigSchema:
    """All settings of one `AlgorithmConfig` class.

    Attributes:
        sections: Section -> key -> argument.
        flat: Key -> argument, for keys written directly under ``config``.
        deprecated: Keys that RLlib still knows by name but refuses.
    """

    def __init__(self, config: AlgorithmConfig):
        self.sections: dict[str, dict[str, Argument]] = {}
        self.flat: dict[str, Argument] = {}
        self.deprecated: set[str] = set()
        attributes = vars(config)
        for name in dir(type(config)):
            if name.startswith("_"):
                continue
            method = inspect.getattr_static(type(config), name)
            if inspect.isfunction(method) and _is_section(method):
                self.sections[name] = self._read_section(type(config), name, attributes)
        for arguments in self.sections.values():
            for key, argument in arguments.items():
                self.flat.setdefault(key, argument)
        for name, default in attributes.items():
            known = {argument.attribute for argument in self.flat.values()}
            if name.startswith("_") or name in known or name in _INTERNAL or name in self.deprecated:
                continue
            if isinstance(default, int | float) and default == DEPRECATED_VALUE:
                self.deprecated.add(name)
                continue
            annotation = type(default) | None if type(default) in (bool, int, float, str) else Any
            self.flat[name] = Argument(None, name, name, annotation)
        self.deprecated -= self.flat.keys()

    def resolve(self, key: str, section: str | None = None) -> Argument | None:
        """Returns the argument that `key` means under `section` (None: directly under ``config``)."""
        arguments = self.flat if section is None else self.sections[section]
        return arguments.get(key) or arguments.get(translate(key)) or arguments.get(key + "_")

    def candidates(self, section: str | None) -> list[str]:
        """Returns the valid keys of a section, or all that may stand directly under ``config``."""
        if section is not None:
            return list(self.sections[section])
        return [*self.flat, *self.sections]

    def _read_section(self, config_class: type, name: str, attributes: dict[str, Any]) -> dict[str, Argument]:
        arguments: dict[str, Argument] = {}
        for cls in config_class.__mro__:
            method = cls.__dict__.get(name)
            if method is None:
                continue
            parameters = list(inspect.signature(method).parameters.values())[1:]
            for parameter in parameters:
                key = parameter.name
                if parameter.kind is parameter.VAR_KEYWORD or key in arguments:
                    continue
                if isinstance(parameter.default, int) and parameter.default == DEPRECATED_VALUE:
                    self.deprecated.add(key)
                    continue
                attribute = _attribute_of(key, config_class, attributes)
                arguments[key] = Argument(
                    name, key, attribute, _annotation_of(parameter, method), is_own=cls is not AlgorithmConfig
                )
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
                break
        return arguments


def translate(key: str) -> str:
    """Returns RLlib's attribute name for a config key (``lambda`` -> ``lambda_``, ``num_workers`` -> …)."""
    return AlgorithmConfig._translate_special_keys(key, warn_deprecated=False)


def _is_section(method: types.FunctionType) -> bool:
    return any(parameter.default is NotProvided for parameter in inspect.signature(method).parameters.values())


def _attribute_of(key: str, config_class: type, attributes: dict[str, Any]) -> str:
    name = translate(key)
    descriptor = inspect.getattr_static(config_class, name, None)
    # RLlib exposes some settings as read-only properties over "_name".
    if isinstance(descriptor, property) and descriptor.fset is None:
        return f"_{name}"
    return name if name in attributes or f"_{name}" not in attributes else f"_{name}"


class _LenientNamespace(dict):
    """Names that exist only for type checkers count as `Any`."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


def _annotation_of(parameter: inspect.Parameter, method: types.FunctionType) -> Any:
    if parameter.annotation is parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"value": parameter.annotation})
    names = _LenientNamespace(vars(sys.modules[method.__module__]))
    try:
        annotation = typing.get_type_hints(holder, globalns={}, localns=names)["value"]
    except (NameError, TypeError, AttributeError):
        return Any
    # RLlib annotates shares of a CPU or GPU as whole numbers; Ray accepts fractions everywhere.
    if parameter.name.startswith(("num_cpus_", "num_gpus_")):
        return annotation | float
    return annotation
