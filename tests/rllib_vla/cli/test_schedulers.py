"""Schedulers: everything that Tune would drop or find out too late is refused."""

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining

HEAD = """\
x:
  run: PPO
  env: CartPole-v1
  config: {evaluation_interval: 1}
"""
PBT = """\
  metric: env_runners/episode_return_mean
  scheduler: pbt
  scheduler_config:
    time_attr: training_iteration
    perturbation_interval: 2
    hyperparam_mutations:
      lr: {tune.loguniform: [1e-5, 1e-3]}
      lambda: [0.9, 1.0]
"""


def test_pbt_gets_samplers_and_attribute_names(experiment_of):
    scheduler = experiment_of(HEAD + PBT).scheduler
    assert isinstance(scheduler, PopulationBasedTraining)
    assert set(scheduler._hyperparam_mutations) == {"lr", "lambda_"}
    assert 1e-5 <= scheduler._hyperparam_mutations["lr"].sample() <= 1e-3
    assert scheduler._hyperparam_mutations["lambda_"] == [0.9, 1.0]
    # Iterations without an evaluation must not end the run.
    assert scheduler._require_attrs is False


def test_asha_goes_by_its_name(experiment_of):
    text = HEAD + "  metric: evaluation/success_rate\n  scheduler: asha\n  scheduler_config: {max_t: 8}\n"
    assert isinstance(experiment_of(text).scheduler, AsyncHyperBandScheduler)
    assert experiment_of(HEAD).scheduler is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  scheduler: ashaa\n", "5: x.scheduler: unknown scheduler; did you mean 'asha'?"),
        (
            "  metric: evaluation/sucess_rate\n",
            "5: x.metric: unknown result; did you mean 'evaluation/success_rate'?",
        ),
        (
            "  scheduler: asha\n",
            "x.metric: is missing: the result by which the scheduler compares trials, for example "
            "evaluation/success_rate",
        ),
        ("  scheduler_config: {max_t: 8}\n", "5: x.scheduler_config: needs a 'scheduler', for example asha or pbt"),
        (
            "  metric: evaluation/success_rate\n  scheduler: asha\n  scheduler_config: {max_tt: 8}\n",
            "7: x.scheduler_config.max_tt: unknown argument of 'asha'; did you mean 'max_t'?",
        ),
        (
            "  metric: evaluation/success_rate\n  scheduler: asha\n  scheduler_config: {time_attr: timesteps_total}\n",
            "7: x.scheduler_config.time_attr: is never reported on the new API stack",
        ),
        (PBT.replace("lambda:", "lambdaa:"), "12: x.scheduler_config.hyperparam_mutations.lambdaa: no such setting"),
        (PBT.replace("interval: 2", "interval: 0"), "7: x.scheduler_config: refused by 'pbt': perturbation_interval"),
        (PBT.replace("loguniform", "loguniforn"), "7: x.scheduler_config: unknown sampler"),
    ],
)
def test_mistakes(problems_of, text, expected):
    (problem,) = problems_of(HEAD + text)
    assert expected in problem
