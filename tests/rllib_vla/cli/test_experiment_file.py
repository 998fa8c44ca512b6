"""Experiment files: what is accepted, and that every mistake is found at once, with its line and a suggestion."""

import re

import pytest
from ray.tune.search.sample import Categorical

BROKEN = """\
first:
  run: GRPO
  enviroment: libero_blocks
  env: libero_block
  stop:
    training_iterations: 3
    evaluation/sucess_rate: 0.9
    timesteps_total: 100
  checkpoint_freq: 3
  num_samples: 0
  checkpoint_config: {checkpoint_frequncy: 2, num_to_keep: many}
  config:
    training:
      temprature: 1.6
      lr: fast
      num_env_runners: 2
      advantage_estimator: grpoo
    env_runner: {}
    rl_module:
      model_config: {model_path: nowhere/at/all}
    num_rollout_workers: 2
    group_size: -1
    minibatch_size: {tune.choise: [1, 2]}
    minibatch_size: 3
second:
  run: PPOO
"""
EXPECTED = [
    (3, "first.enviroment", "did you mean 'env'"),
    (4, "first.env", "did you mean 'libero_blocks'"),
    (6, "first.stop.training_iterations", "did you mean 'training_iteration'"),
    (7, "first.stop.evaluation/sucess_rate", "did you mean 'evaluation/success_rate'"),
    (8, "first.stop.timesteps_total", "use 'num_env_steps_sampled_lifetime'"),
    (9, "first.checkpoint_freq", "'checkpoint_config.checkpoint_frequency'"),
    (10, "first.num_samples", "at least 1"),
    (11, "first.checkpoint_config.checkpoint_frequncy", "did you mean 'checkpoint_frequency'"),
    (11, "first.checkpoint_config.num_to_keep", "expected a whole number or null, got text 'many'"),
    (14, "first.config.training.temprature", "did you mean 'temperature'"),
    (15, "first.config.training.lr", "expected a number"),
    (16, "first.config.training.num_env_runners", "belongs to section 'env_runners'"),
    (17, "first.config.training.advantage_estimator", "one of 'grpo', 'rloo', 'mean_baseline'"),
    (18, "first.config.env_runner", "did you mean 'env_runners'"),
    (20, "first.config.rl_module.model_config.model_path", "no checkpoint directory at nowhere/at/all"),
    (21, "first.config.num_rollout_workers", "new name: 'num_env_runners'"),
    (22, "first.config.group_size", "-1 is RLlib's internal mark"),
    (23, "first.config.minibatch_size.tune.choise", "did you mean 'tune.choice'"),
    (24, "first.config.minibatch_size", "given twice (first in line 23)"),
    (26, "second.run", "did you mean 'PPO'"),
]


def test_all_mistakes_are_reported_at_once(problems_of):
    found = [re.match(r"(\d+): (\S+): (.*)", problem, re.DOTALL).groups() for problem in problems_of(BROKEN)]
    assert [(int(line), key) for line, key, _ in found] == [(line, key) for line, key, _ in EXPECTED]
    for (_, _, message), (_, key, part) in zip(found, EXPECTED, strict=True):
        assert part in message, key


def test_fluent_sections_and_flat_keys_mean_the_same(experiment_of):
    head = "x:\n  run: PPO\n  env: CartPole-v1\n  config:\n"
    flat = experiment_of(
        head
        + "    {lr: 5e-6, lambda: 0.9, num_env_runners: 0, framework: torch, model_config: {vf_share_layers: true}}"
    )
    fluent = experiment_of(
        head + "    training: {lr: 5e-6, lambda_: 0.9}\n    env_runners: {num_env_runners: 0}\n"
        "    framework: {framework: torch}\n    rl_module: {model_config: {vf_share_layers: true}}"
    )
    assert flat.config.to_dict() == fluent.config.to_dict()
    assert flat.config.lr == 5e-6
    assert flat.config.lambda_ == 0.9
    assert callable(flat.config.env_runners)


def test_same_setting_twice_is_refused(problems_of):
    text = "x:\n  run: PPO\n  env: CartPole-v1\n  config:\n    lr: 1\n    training:\n      lr: 2"
    assert problems_of(text) == [
        "7: x.config.training.lr: sets the same thing as 'config.lr'; write it in one way only"
    ]


def test_search_spaces_survive_at_any_depth(experiment_of):
    experiment = experiment_of("""
x:
  run: PPO
  env: {grid_search: [CartPole-v1, Acrobot-v1]}
  config:
    lr: {tune.loguniform: [1e-6, 1e-4]}
    environment: {env_config: {a: {b: {grid_search: [1, 2]}}}}
    rl_module: {model_config: {fcnet_hiddens: {tune.choice: [[8], [16]]}}}
""")
    config = experiment.config
    assert config.env == {"grid_search": ["CartPole-v1", "Acrobot-v1"]}
    assert config.env_config["a"]["b"] == {"grid_search": [1, 2]}
    assert isinstance(config._model_config["fcnet_hiddens"], Categorical)
    assert (config.lr.lower, config.lr.upper) == (1e-6, 1e-4)
    assert experiment.example_config.env == "CartPole-v1"
    assert experiment.example_config.lr == 1e-6
    assert experiment.example_config.env_config == {"a": {"b": 1}}


def test_every_grid_value_is_validated(problems_of):
    text = """\
x:
  run: PPO
  env: CartPole-v1
  config:
    train_batch_size: 200
    minibatch_size: {grid_search: [100, 400]}
    num_epochs: {grid_search: [1, many]}
"""
    first, second = problems_of(text)
    assert first.startswith("6: x.config.minibatch_size: ")
    assert "at minibatch_size=400" in first
    assert second.startswith("7: x.config.num_epochs: expected a whole number")


def test_unknown_key_in_evaluation_config(problems_of):
    text = "x:\n  run: PPO\n  env: CartPole-v1\n  config:\n    evaluation:\n      evaluation_config: {explor: false}"
    assert problems_of(text) == [
        "6: x.config.evaluation.evaluation_config.explor: unknown key; did you mean 'explore'?"
    ]


def test_evaluation_config_reaches_rllib(experiment_of):
    text = (
        "x: {run: PPO, env: CartPole-v1, config: {evaluation: "
        "{evaluation_config: {env_runners: {explore: false}, model_config: {vf_share_layers: true}}}}}"
    )
    config = experiment_of(text).config.get_evaluation_config_object()
    assert config.explore is False
    assert config._model_config == {"vf_share_layers": True}


def test_wrong_task_is_blamed_on_its_line(problems_of):
    text = """\
x:
  run: GRPO
  env: libero_blocks
  config:
    model_config: {model_path: checkpoints/libero_blocks_cold_start}
    environment:
      env_config:
        tasks:
          - lift_red_cube
          - lift_red_cub
"""
    (problem,) = problems_of(text)
    assert problem.startswith("10: x.config.environment.env_config.tasks[1]: ")
    assert "lift_red_cube" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no experiment"),
        ("[1, 2]", "holds no experiment"),
        ("x: 3", "expected a mapping"),
        ("x: {env: CartPole-v1}", "'run' is missing"),
        ("x: {run: PPO}", "no environment is given"),
        ("a/b: {run: PPO, env: CartPole-v1}", "must not contain slashes"),
        ("x: {run: PPO, env: CartPole-v1, restore: /no/where}", "no such checkpoint"),
        ("x: {run: PPO, env: CartPole-v1, resources_per_trial: {cpu: two}}", "expected a number"),
        ("x: {run: PPO, env: CartPole-v1, stop: {training_iteration: soon}}", "expected a number, got 'soon'"),
        ("x: {run: PPO, env: CartPole-v1, config: {callbacks_class: no.such.Class}}", "cannot import"),
    ],
)
def test_refused(problems_of, text, message):
    assert message in "\n".join(problems_of(text))


def test_checkpoint_defaults_follow_evaluation(experiment_of):
    plain = experiment_of("x: {run: PPO, env: CartPole-v1}").checkpoints
    assert (plain.frequency, plain.at_end, plain.score_attribute) == (10, True, None)
    config = "{evaluation_interval: 4, model_config: {model_path: checkpoints/libero_blocks_cold_start}}"
    text = f"x: {{run: GRPO, env: libero_blocks, config: {config}}}"
    evaluated = experiment_of(text).checkpoints
    assert (evaluated.frequency, evaluated.score_attribute) == (4, "evaluation/success_rate")


def test_stop_may_be_nested_and_custom(experiment_of):
    stop = "{env_runners: {episode_return_mean: 1}, evaluation/my_metric: 2}"
    text = f"x: {{run: PPO, env: CartPole-v1, stop: {stop}, config: {{evaluation_interval: 1}}}}"
    assert experiment_of(text).stop == {"env_runners/episode_return_mean": 1, "evaluation/my_metric": 2}
