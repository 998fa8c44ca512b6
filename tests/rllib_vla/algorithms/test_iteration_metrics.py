import pytest
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_vla import metrics as names
from rllib_vla.algorithms.grpo.iteration_metrics import PhaseTimes, log_iteration


def logged(num_steps=None, *, staleness=(0,), samples_ahead=False, weights_bytes=None):
    metrics, of_runner = MetricsLogger(root=True), MetricsLogger()
    if num_steps is not None:
        of_runner.log_value(NUM_ENV_STEPS_SAMPLED, num_steps, reduce="sum")
        metrics.aggregate([of_runner.reduce()], key=ENV_RUNNER_RESULTS)
    log_iteration(
        metrics,
        PhaseTimes(sample_s=0.5, update_s=3.0, sync_s=0.5),
        staleness=list(staleness),
        num_carried_over=3,
        weights_bytes=weights_bytes,
        samples_ahead=samples_ahead,
    )
    return MetricsLogger.peek_results(metrics.reduce())


def test_times_and_counts():
    results = logged(staleness=[0, 1, 1, 2], weights_bytes=70)
    assert results[names.TIME_SPLIT] == {names.TIME_SAMPLE: 0.5, names.TIME_UPDATE: 3.0, names.TIME_SYNC: 0.5}
    sampling = results[names.SAMPLING_RESULTS]
    assert (sampling[names.NUM_GROUPS_TRAINED], sampling[names.NUM_GROUPS_CARRIED_OVER]) == (4, 3)
    assert (sampling[names.STALENESS_MEAN], sampling[names.STALENESS_MAX]) == (1.0, 2)
    assert (sampling[names.WEIGHTS_BYTES], sampling[names.NUM_ITERATIONS_WITHOUT_UPDATE]) == (70, 0)


@pytest.mark.parametrize(("samples_ahead", "seconds"), [(False, 0.5), (True, 4.0)])
def test_rates_count_the_time_in_which_runners_sample(samples_ahead, seconds):
    """Waiting for what was sampled ahead takes next to no time: steps per second of that would mean nothing."""
    sampling = logged(100, samples_ahead=samples_ahead)[names.SAMPLING_RESULTS]
    assert sampling[names.ENV_STEPS_PER_SECOND] == pytest.approx(100 / seconds)


def test_an_iteration_without_groups_is_counted():
    sampling = logged(staleness=[])[names.SAMPLING_RESULTS]
    assert sampling[names.NUM_ITERATIONS_WITHOUT_UPDATE] == 1
    assert sampling[names.ENV_STEPS_PER_SECOND] == 0
    assert names.STALENESS_MEAN not in sampling
