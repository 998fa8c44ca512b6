import pytest

from rllib_vla.cli.resolved_settings import to_yaml
from rllib_vla.logging import loggers

HEAD = "x:\n  run: PPO\n  env: CartPole-v1\n"


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr("rllib_vla.cli.experiment_file.missing_package", lambda name: None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  loggers: {wandbb: {}}\n", "4: x.loggers.wandbb: unknown logger; did you mean 'wandb'?"),
        ("  loggers: {mlflow: here}\n", "4: x.loggers.mlflow: expected a mapping of its arguments"),
        ("  loggers: [wandb]\n", "4: x.loggers: expected a mapping"),
        (
            "  loggers: {mlflow: {tracking_url: here}}\n",
            "4: x.loggers.mlflow.tracking_url: unknown argument; did you mean 'tracking_uri'?",
        ),
    ],
)
def test_mistakes(problems_of, installed, text, expected):
    (problem,) = problems_of(HEAD + text)
    assert expected in problem


def test_missing_packages_are_named(problems_of, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    (problem,) = problems_of(HEAD + "  loggers:\n    wandb:\n")
    assert problem == "5: x.loggers.wandb: needs a package that is not installed: pip install wandb"


def test_arguments_reach_the_callback_and_keys_stay_secret(experiment_of, installed, monkeypatch):
    made = []
    monkeypatch.setattr(loggers, "_callback_class", lambda name: lambda **arguments: made.append((name, arguments)))
    experiment = experiment_of(HEAD + "  loggers: {wandb: {project: vla, api_key: abc}}\n")
    loggers.make_loggers(experiment.loggers)
    assert made == [("wandb", {"project": "vla", "api_key": "abc"})]
    shown = to_yaml("x", experiment.settings)
    assert "project: vla" in shown
    assert "abc" not in shown
