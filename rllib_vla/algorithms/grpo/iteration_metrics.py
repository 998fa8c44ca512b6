"""What GRPO itself logs about a training iteration; `docs/metrics.md` explains the names."""

from dataclasses import dataclass

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED, NUM_MODULE_STEPS_SAMPLED
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_vla import metrics as names

# What is counted while sampling, and the name of its rate.
_RATES = {
    names.ENV_STEPS_PER_SECOND: (NUM_ENV_STEPS_SAMPLED,),
    names.TRAJECTORIES_PER_SECOND: (names.NUM_TRAJECTORIES,),
    names.MODEL_CALLS_PER_SECOND: (NUM_MODULE_STEPS_SAMPLED, DEFAULT_MODULE_ID),
}


@dataclass(frozen=True)
class PhaseTimes:
    """Seconds of one iteration.

    Attributes:
        sample_s: Sampling, or waiting for what was sampled ahead.
        update_s: Learner.
        sync_s: Weights to the environment runners.
    """

    sample_s: float
    update_s: float
    sync_s: float


def log_iteration(
    metrics: MetricsLogger,
    times: PhaseTimes,
    *,
    staleness: list[int],
    num_carried_over: int,
    weights_bytes: int | None,
    samples_ahead: bool,
) -> None:
    """Logs one iteration, after the metrics of its environment runners were aggregated.

    Args:
        metrics: The algorithm's.
        times: Seconds of its phases.
        staleness: Age of each group that was trained on, in updates; empty: there was no update.
        num_carried_over: Groups that wait for the next iteration.
        weights_bytes: What went to each environment runner; None: nothing, learner and runner are one process.
        samples_ahead: Whether the runners sample during the update as well.
    """
    for name, seconds in (
        (names.TIME_SAMPLE, times.sample_s),
        (names.TIME_UPDATE, times.update_s),
        (names.TIME_SYNC, times.sync_s),
    ):
        metrics.log_value((names.TIME_SPLIT, name), seconds, window=1)
    sampling_s = times.sample_s + times.update_s + times.sync_s if samples_ahead else times.sample_s
    sampling = {name: _sampled(metrics, key) / sampling_s for name, key in _RATES.items()}
    sampling |= {names.NUM_GROUPS_TRAINED: len(staleness), names.NUM_GROUPS_CARRIED_OVER: num_carried_over}
    if staleness:
        sampling |= {names.STALENESS_MEAN: float(np.mean(staleness)), names.STALENESS_MAX: max(staleness)}
    if weights_bytes is not None:
        sampling[names.WEIGHTS_BYTES] = weights_bytes
    for name, value in sampling.items():
        metrics.log_value((names.SAMPLING_RESULTS, name), value, window=1)
    without_update = (names.SAMPLING_RESULTS, names.NUM_ITERATIONS_WITHOUT_UPDATE)
    metrics.log_value(without_update, int(not staleness), reduce="lifetime_sum")


def _sampled(metrics: MetricsLogger, key: tuple[str, ...]) -> float:
    return float(np.nan_to_num(metrics.peek((ENV_RUNNER_RESULTS, *key), default=0)))  # NaN: nothing this time
