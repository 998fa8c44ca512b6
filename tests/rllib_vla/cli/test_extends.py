"""`extends`: what is merged, what is replaced, and that mistakes name the file that they are in."""

import pytest

from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.experiment_source import apply_changes, load_source
from rllib_vla.cli.problems import InputError

BASE = """\
base:
  run: PPO
  env: CartPole-v1
  stop: {training_iteration: 5, time_total_s: 60}
  config:
    training:
      lr: 1e-3
      train_batch_size_per_learner: 400
    env_runners: {num_env_runners: 0}
    rl_module:
      model_config: {vf_share_layers: true, fcnet_hiddens: [8, 8]}
"""
CHILD = """\
child:
  extends: base.yaml
  stop: {training_iteration: 7, time_total_s: null}
  config:
    training:
      lr: {grid_search: [1e-4, 1e-5]}
    rl_module:
      model_config: {fcnet_hiddens: [16]}
"""


def problems_of(path: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_experiments(*_loaded(path))
    return [str(problem) for problem in caught.value.problems]


def _loaded(path: str):
    document, base = load_source(path)
    return document, {}, base


def test_mappings_are_merged_and_everything_else_is_replaced(write):
    write("base.yaml", BASE)
    (experiment,) = parse_experiments(*_loaded(write("child.yaml", CHILD)))
    assert experiment.name == "child"
    assert experiment.run == "PPO"
    assert experiment.stop == {"training_iteration": 7}
    assert experiment.config.lr == {"grid_search": [1e-4, 1e-5]}
    assert experiment.config.train_batch_size_per_learner == 400
    assert experiment.config._model_config == {"vf_share_layers": True, "fcnet_hiddens": [16]}


def test_a_value_replaces_a_search_and_the_other_way_round(write):
    write("base.yaml", CHILD.replace("  extends: base.yaml\n", "  run: PPO\n  env: CartPole-v1\n"))
    path = write("b.yaml", "b:\n  extends: base.yaml\n  config: {training: {lr: {tune.uniform: [0.1, 0.2]}}}\n")
    document, _ = load_source(path)
    assert document.data["b"]["config"]["training"] == {"lr": {"tune.uniform": [0.1, 0.2]}}


def test_mistakes_name_the_file_and_line_they_are_in(write):
    base = write("base.yaml", BASE.replace("lr: 1e-3", "lrr: 1e-3").replace("PPO", "PPO\n  run: PPO"))
    child = write("child.yaml", CHILD.replace("fcnet_hiddens: [16]}", "fcnet_hiddens: [16]}\n    seeed: 1"))
    found = problems_of(child)
    assert f"{base}:3: base.run: given twice (first in line 2)" in found
    assert any(p.startswith(f"{base}:8: child.config.training.lrr: unknown key") for p in found)
    assert any(p.startswith(f"{child}:9: child.config.seeed: unknown key") for p in found)
    assert len(found) == 3


def test_renaming_on_the_command_line_keeps_the_places(write):
    base = write("base.yaml", BASE.replace("lr: 1e-3", "lrr: 1e-3"))
    document, _ = load_source(write("child.yaml", CHILD))
    apply_changes(document, {}, "other")
    assert document.place(("other", "config", "training", "lrr")) == f"{base}:7"
    assert document.place(("other", "config", "training", "lr")).endswith("child.yaml:6")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (None, "no such file"),
        ("a: {run: PPO}\nb: {run: PPO}\n", "must hold exactly one experiment to be extended, it holds 2"),
        ("a: {extends: other.yaml}\n", "extends another file itself (line 1); only one level is possible"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bases_that_cannot_be_extended(write, base, message):
    if base is not None:
        write("base.yaml", base)
    first = problems_of(write("child.yaml", CHILD))[0]
    assert "child.yaml:2: child.extends: " in first
    assert message in first


def test_extends_must_be_text(write):
    text = "child:\n  extends: 3\n"
    assert any("c.yaml:2: child.extends: expected text" in problem for problem in problems_of(write("c.yaml", text)))
