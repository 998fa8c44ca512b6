"""Optional experiment trackers, by name: Tune's own callbacks with the arguments of an experiment file."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

# Name -> (module and class of the callback, package that it needs).
_LOGGERS = {
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", "wandb"),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", "mlflow"),
}
LOGGERS = tuple(_LOGGERS)


def missing_package(name: str) -> str | None:
    """Returns the package that a logger lacks, None if it can be used."""
    package = _LOGGERS[name][2]
    return package if importlib.util.find_spec(package) is None else None


def unknown_arguments(name: str, arguments: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Returns the arguments that a logger does not know, and those that it does."""
    parameters = inspect.signature(_callback_class(name).__init__).parameters
    known = [key for key in parameters if key not in ("self", "kwargs")]
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return ([] if takes_all else [key for key in arguments if key not in known]), known


def make_loggers(loggers: dict[str, dict[str, Any]]) -> list[Any]:
    """Returns Tune callbacks.

    Args:
        loggers: Name -> arguments of its callback.
    """
    return [_callback_class(name)(**arguments) for name, arguments in loggers.items()]


def _callback_class(name: str) -> Callable[..., Any]:
    module, attribute, _ = _LOGGERS[name]
    return getattr(importlib.import_module(module), attribute)
