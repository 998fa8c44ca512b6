import pytest

from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.experiment_source import apply_changes, load_source
from rllib_vla.cli.problems import InputError

YAML = "x:\n  run: PPO\n  env: CartPole-v1\n  stop: {training_iteration: 5}\n  num_samples: 2\n"
PYTHON = """\
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

config = PPOConfig().environment("CartPole-v1").training(lr=tune.grid_search([1e-4, 1e-5]))
stop = {"training_iteration": 3}
"""


def test_options_win_over_the_file(write):
    document, base = load_source(write("a.yaml", YAML))
    apply_changes(document, {"stop": {"time_total_s": 9}, "num_samples": 3}, "y")
    (experiment,) = parse_experiments(document, {"lr": 1e-3}, base)
    assert experiment.name == "y"
    assert experiment.stop == {"training_iteration": 5, "time_total_s": 9}
    assert experiment.num_samples == 3
    assert experiment.config.lr == 1e-3


def test_mistakes_in_options_name_the_option(write):
    document, base = load_source(write("a.yaml", YAML))
    apply_changes(document, {"stop": {"training_iterations": 9}, "num_samples": 0}, None)
    with pytest.raises(InputError) as caught:
        parse_experiments(document, {"learning_rate": 1e-3}, base)
    found = {problem.source: str(problem) for problem in caught.value.problems}
    assert "did you mean 'training_iteration'" in found["--stop"]
    assert "at least 1" in found["--num-samples"]
    assert "learning_rate: unknown key" in found["--config"]


def test_python_file(write):
    document, base = load_source(write("tuned.py", PYTHON))
    (experiment,) = parse_experiments(document, {"num_env_runners": 0}, base)
    assert (experiment.name, experiment.run) == ("tuned", "PPO")
    assert experiment.stop == {"training_iteration": 3}
    assert experiment.config.lr == {"grid_search": [1e-4, 1e-5]}
    assert experiment.example_config.lr == 1e-4
    assert experiment.config.num_env_runners == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stop = {}", "must define 'config'"),
        ("a = 1\nb = c", r"broken.py:2: NameError"),
        ("a = = 1", "broken.py:1: Syntax"),
    ],
)
def test_broken_python_files(write, text, message):
    with pytest.raises(InputError, match=message):
        load_source(write("broken.py", text))


def test_unknown_files(write):
    with pytest.raises(InputError, match="no such file"):
        load_source("nothing.yaml")
    with pytest.raises(InputError, match=r"expected a \.yaml or \.py"):
        load_source(write("a.txt", ""))
