"""Tune's trial schedulers by name: checked before anything starts, built when the experiment does.

Ray's `create_scheduler` drops arguments that it does not know without a word, and a scheduler that gets no metric, or a
misspelled one, fails after the first iteration or never acts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from rllib_vla.cli import search_space
from rllib_vla.cli.problems import InputError, KeyPath, did_you_mean
from rllib_vla.cli.stop_criteria import name_mistake

FIFO = "fifo"
_ALIASES = {"asha": "async_hyperband"}
_MUTATIONS = "hyperparam_mutations"
_PBT = ("pbt", "pb2")


def check_scheduler(
    values: dict[str, Any],
    settings: Callable[[str], Any],
    names: Iterable[str],
    report: Callable[[KeyPath, str], None],
) -> None:
    """Checks ``scheduler``, ``scheduler_config``, ``metric`` and ``mode`` of an experiment.

    Args:
        values: Checked values of the experiment by key.
        settings: Flat key -> config argument, None if there is no such setting.
        names: All flat keys.
        report: Called with (path, message) for each mistake.
    """
    metric = values.get("metric")
    if metric is not None and (message := name_mistake(metric)):
        report(("metric",), message)
    name = values.get("scheduler", FIFO).lower()
    arguments = values.get("scheduler_config") or {}
    if name == FIFO:
        if arguments:
            report(("scheduler_config",), "needs a 'scheduler', for example asha or pbt")
        return
    known = _arguments_of(name)
    if known is None:
        report(("scheduler",), f"unknown scheduler; {did_you_mean(name, _names())}")
        return
    unknown = [key for key in arguments if key not in known]
    for key in unknown:
        report(("scheduler_config", key), f"unknown argument of '{name}'; {did_you_mean(key, known)}")
    if metric is None and "metric" not in arguments:
        message = "is missing: the result by which the scheduler compares trials, for example evaluation/success_rate"
        report(("metric",), message)
    for key in ("metric", "time_attr"):
        if key in arguments and (message := name_mistake(str(arguments[key]))):
            report(("scheduler_config", key), message)
    mutations = arguments.get(_MUTATIONS)
    before = len(unknown)
    for key in mutations if isinstance(mutations, dict) else ():
        if settings(str(key)) is None:
            before += 1
            message = f"no such setting (write it without its section); {did_you_mean(key, names)}"
            report(("scheduler_config", _MUTATIONS, key), message)
    if not before:
        try:
            make_scheduler(name, arguments, settings)
        except InputError as error:
            report(("scheduler_config",), error.problems[0].message)


def make_scheduler(name: str, arguments: dict[str, Any], settings: Callable[[str], Any]) -> Any:
    """Returns a Tune scheduler, None for the default one.

    Args:
        name: As in the file, in any case.
        arguments: The ``scheduler_config`` of a file.
        settings: Flat key -> config argument.

    Raises:
        InputError: The scheduler refuses its arguments.
    """
    from ray.tune.error import TuneError
    from ray.tune.schedulers import create_scheduler

    name = name.lower()
    if name == FIFO:
        return None
    arguments = copy.deepcopy(arguments)
    if isinstance(arguments.get(_MUTATIONS), dict):
        arguments[_MUTATIONS] = {
            settings(key).attribute: _to_tune(value) for key, value in arguments[_MUTATIONS].items()
        }
    if name in _PBT:
        # Results without an evaluation are passed over; the next one with the metric counts.
        arguments.setdefault("require_attrs", False)
    try:
        return create_scheduler(_ALIASES.get(name, name), **arguments)
    except (ValueError, TypeError, AssertionError, TuneError, ImportError) as error:
        raise InputError(f"refused by '{name}': {error}") from error


def _to_tune(value: Any) -> Any:
    """Returns a sampler as Tune's object; lists are alternatives for Tune."""
    problems: list[str] = []
    searches = search_space.find_searches(value, lambda path, message: problems.append(message))
    if problems:
        raise InputError("; ".join(problems))
    return search_space.replace(value, {search.path: search.to_tune() for search in searches})


def _arguments_of(name: str) -> list[str] | None:
    from ray._common.utils import get_function_args
    from ray.tune.schedulers import SCHEDULER_IMPORT

    scheduler = SCHEDULER_IMPORT.get(_ALIASES.get(name, name))
    if scheduler is None:
        return None
    scheduler = scheduler if isinstance(scheduler, type) else scheduler()
    return [argument for argument in get_function_args(scheduler) if argument != "self"]


def _names() -> Iterable[str]:
    from ray.tune.schedulers import SCHEDULER_IMPORT

    return [*_ALIASES, *SCHEDULER_IMPORT]
