"""Callbacks and stop criteria that belong to this process, not to the experiment.

Tune pickles callbacks and stoppers with an experiment and brings the pickled ones back on resume: terminals,
signal handlers and changed stop criteria would be lost. What is pickled here are empty forwarders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.utils.annotations import override
from ray.tune import Callback, Stopper

from rllib_vla.logging.result_view import flatten, number

_active_callbacks: list[Callback] = []
_active_stop: dict[str, Any] = {}


def activate(callbacks: Sequence[Callback], stop: dict[str, Any]) -> None:
    """Sets what the forwarders of this process forward to."""
    _active_callbacks[:] = callbacks
    _active_stop.clear()
    _active_stop.update(stop)


def is_met(stop: dict[str, Any], flat_result: dict[str, Any]) -> bool:
    """Whether a flattened result reaches one of the stop criteria; results that lack a key do not."""
    values = {key: number(flat_result, key) for key in stop}
    return any(value is not None and value >= stop[key] for key, value in values.items())


class ForwardingStopper(Stopper):
    """Ends trials by the stop criteria of this process."""

    @override(Stopper)
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return is_met(_active_stop, flatten(result))

    @override(Stopper)
    def stop_all(self) -> bool:
        return False


class ForwardingCallback(Callback):
    """Hands Tune's events to the callbacks of this process."""

    @override(Callback)
    def setup(self, stop=None, num_samples=None, total_num_samples=None, **info) -> None:
        for callback in _active_callbacks:
            callback.setup(stop=stop, num_samples=num_samples, total_num_samples=total_num_samples, **info)

    @override(Callback)
    def on_step_begin(self, iteration, trials, **info) -> None:
        for callback in _active_callbacks:
            callback.on_step_begin(iteration=iteration, trials=trials, **info)

    @override(Callback)
    def on_step_end(self, iteration, trials, **info) -> None:
        for callback in _active_callbacks:
            callback.on_step_end(iteration=iteration, trials=trials, **info)

    @override(Callback)
    def on_trial_start(self, iteration, trials, trial, **info) -> None:
        for callback in _active_callbacks:
            callback.on_trial_start(iteration=iteration, trials=trials, trial=trial, **info)

    @override(Callback)
    def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
        for callback in _active_callbacks:
            callback.on_trial_result(iteration=iteration, trials=trials, trial=trial, result=result, **info)

    @override(Callback)
    def on_trial_save(self, iteration, trials, trial, **info) -> None:
        for callback in _active_callbacks:
            callback.on_trial_save(iteration=iteration, trials=trials, trial=trial, **info)

    @override(Callback)
    def on_trial_error(self, iteration, trials, trial, **info) -> None:
        for callback in _active_callbacks:
            callback.on_trial_error(iteration=iteration, trials=trials, trial=trial, **info)

    @override(Callback)
    def on_experiment_end(self, trials, **info) -> None:
        for callback in _active_callbacks:
            callback.on_experiment_end(trials=trials, **info)
