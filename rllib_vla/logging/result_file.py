"""`result.json` without the configuration in every line, which is most of it and stands in `params.json`."""

from __future__ import annotations

from typing import Any

from ray.rllib.utils.annotations import override
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback


class ResultFileCallback(JsonLoggerCallback):
    """Takes the place of Tune's own logger. What is searched stays: a scheduler may change it during a trial."""

    @override(JsonLoggerCallback)
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, result | {"config": searched_values(trial)})


def searched_values(trial: Trial) -> dict[str, Any]:
    """Returns the present values of a trial's searched settings, nested keys joined by "/"."""
    values = {}
    for key in trial.evaluated_params or {}:
        value: Any = trial.config
        for part in str(key).split("/"):
            if isinstance(value, dict):
                value = value.get(part)
        values[str(key)] = value
    return values
