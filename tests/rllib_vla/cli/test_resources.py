from types import SimpleNamespace

import pytest
from ray.rllib.algorithms.ppo import PPO, PPOConfig

from rllib_vla.cli.problems import InputError
from rllib_vla.cli.resources import check_resources, machine_resources


def experiment(**overrides):
    config = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=3)
    return SimpleNamespace(name="x", algo_class=PPO, example_config=config, resources_per_trial=None, **overrides)


def test_too_few_cpus_are_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"needs 4 CPUs per trial, but there are 2.*--ray-num-cpus 4"):
        check_resources(experiment(), {"CPU": 2})
    check_resources(experiment(), {"CPU": 4})


def test_resources_per_trial_replace_the_request():
    small = experiment()
    small.resources_per_trial = {"cpu": 1}
    check_resources(small, {"CPU": 1})


def test_given_numbers_win():
    assert machine_resources(7, 2) == {"CPU": 7, "GPU": 2}
    assert machine_resources(None, 0)["CPU"] >= 1
