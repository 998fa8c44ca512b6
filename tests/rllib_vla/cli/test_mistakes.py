"""Mistakes that a training would only show late, or never: each is one message with line, key and remedy."""

import pytest

GRPO = """\
x:
  run: GRPO
  env: libero_blocks
  stop: {training_iteration: 3}
  config:
    model_config: {model_path: checkpoints/libero_blocks_cold_start}
    env_config: {tasks: [lift_red_cube]}
"""


def edited(old: str, new: str) -> str:
    assert old in GRPO
    return GRPO.replace(old, new)


MISTAKES = [
    # Values.
    (GRPO + "    lr: '5e-6'\n", "8: x.config.lr: expected a number", "written without quotes"),
    (GRPO + "    lr: .inf\n", "8: x.config.lr: ", "must be a positive number, is inf"),
    (GRPO + "    temperature: .inf\n", "8: x.config.temperature: ", "must be finite"),
    (GRPO + "    num_learners: -2\n", "8: x.config.num_learners: ", "must not be negative"),
    (GRPO + "    success_rate_low: 10\n", "8: x.config.success_rate_low: ", "are shares"),
    # Searches.
    (GRPO + "    temperature: {gridsearch: [1.0]}\n", "8: x.config.temperature: ", "did you mean 'grid_search'?"),
    (GRPO + "    lr: {uniform: [1e-5, 1e-4]}\n", "8: x.config.lr: ", "did you mean 'tune.uniform'?"),
    # Settings that RLlib has and GRPO does not read.
    (GRPO + "    gamma: 0.9\n", "8: x.config.gamma: ", "has no effect on GRPO: rewards are"),
    (GRPO + "    train_batch_size_per_learner: 512\n", "8: x.config.train_batch_size_per_learner: ", "num_groups"),
    (GRPO + "    num_envs_per_env_runner: 4\n", "8: x.config.num_envs_per_env_runner: ", "`num_envs_per_simulator`"),
    (GRPO + "    evaluation_duration: 20\n", "8: x.config.evaluation_duration: ", "evaluation_num_scenes_per_task"),
    (GRPO + "    num_gpus: 1\n", "8: x.config.num_gpus: ", "use `num_gpus_per_learner`"),
    (GRPO + "    optimizer: {weight_decay: 0.1}\n", "8: x.config.optimizer: ", "`weight_decay`"),
    # Environment.
    (edited("[lift_red_cube]", "lift_red_cube"), "7: x.config.env_config.tasks: ", "write [lift_red_cube]"),
    (edited("tasks:", "task:"), "7: x.config.env_config.task: ", "did you mean 'tasks'?"),
    (edited("[lift_red_cube]", "[]"), "7: x.config.env_config.tasks: ", "must name at least one task"),
    (edited("libero_blocks\n", "CartPole-v1\n"), "3: x.env: unknown suite 'CartPole-v1' (valid: ", "libero_blocks"),
    # Policy.
    (edited("model_path", "model_pth"), "6: x.config.model_config.model_pth: ", "did you mean 'model_path'?"),
    (edited("cold_start}", "cold_start, dtyp: x}"), "6: x.config.model_config.dtyp: ", "did you mean 'dtype'?"),
    (
        edited("cold_start}", "cold_start, unnorm_key: bridge}"),
        "6: x.config.model_config.unnorm_key: ",
        "Available: libero_blocks",
    ),
    (edited("{model_path: checkpoints/libero_blocks_cold_start}", "{model_path: envs}"), "6: x.config", "config.json"),
    (GRPO.replace("lift_red_cube]", "lift_red_cube], chunk_size: 4"), "6: x.config", "takes at most 4 of 7"),
    # What is waited for.
    (edited("training_iteration: 3", "training_iteration: -3"), "4: x.stop.training_iteration: ", "above 0"),
    (edited("training_iteration: 3", "env_runners/success_rate: 90"), "4: x.stop.env_runners/success_", "a share"),
    (
        edited("stop: {training_iteration: 3}", "stop:\n    evaluation/success_rate: 0.9"),
        "5: x.stop.evaluation/success_rate: is never reported",
        "set 'evaluation_interval'",
    ),
    (
        GRPO + "  checkpoint_config: {checkpoint_score_attribute: evaluation/sucess_rate}\n",
        "8: x.checkpoint_config.checkpoint_score_attribute: unknown result",
        "did you mean 'evaluation/success_rate'?",
    ),
    (
        GRPO + "  scheduler: pbt\n  metric: env_runners/success_rate\n"
        "  scheduler_config: {hyperparam_mutations: {temprature: [1.0, 1.6]}}\n",
        "10: x.scheduler_config.hyperparam_mutations.temprature: no such setting",
        "did you mean 'temperature'?",
    ),
    # The experiment itself.
    (GRPO + "  resources_per_trial: {cpus: 2}\n", "8: x.resources_per_trial.cpus: ", "did you mean 'cpu'?"),
    (edited("GRPO", "grpo"), "2: x.run: ", "did you mean 'GRPO'?"),
    ("run: GRPO\nenv: libero_blocks\nconfig: {}\n", "1: run: is a setting of an experiment", "'<name>:' above"),
    (GRPO + "    validate: {}\n", "8: x.config.validate: unknown key; no valid name is similar", ""),
    (GRPO + "    num_simulators: 2\n", "8: x.config.num_simulators: ", "mean 'num_simulators_per_env_runner'?"),
]


@pytest.mark.parametrize(("text", "start", "part"), MISTAKES, ids=[start for _, start, _ in MISTAKES])
def test_one_clear_message(problems_of, text, start, part):
    (problem,) = problems_of(text)
    assert problem.startswith(start)
    assert part in problem


def test_the_file_without_mistakes_is_accepted(experiment_of):
    experiment_of(GRPO)


def test_several_mistakes_in_one_mapping_are_all_reported(problems_of):
    text = edited("tasks: [lift_red_cube]", "tasks: [lift_red_cub], chunk_sze: 8, image_sze: 96")
    text = text.replace("cold_start}", "cold_stat, unnorm_ky: x, lora: {rnk: 3}}")
    keys = {problem.split(": ")[1].removeprefix("x.config.") for problem in problems_of(text)}
    assert keys == {
        "env_config.tasks[0]",
        "env_config.chunk_sze",
        "env_config.image_sze",
        "model_config.model_path",
        "model_config.unnorm_ky",
        "model_config.lora.rnk",
    }


def test_evaluation_criteria_are_fine_with_evaluation(experiment_of):
    text = edited("training_iteration: 3", "evaluation/success_rate: 0.9") + "    evaluation_interval: 5\n"
    assert experiment_of(text).stop == {"evaluation/success_rate": 0.9}


def test_the_wrong_member_of_a_mixture_is_named(problems_of):
    # What else is wrong, and said before or after it, depends on whether the meant suite can be played here.
    problems = problems_of(edited("libero_blocks\n", "[libero_blocks, libero_gaol]\n"))
    expected = "3: x.env: unknown suite 'libero_gaol'; did you mean 'libero_goal'?"
    assert any(problem.startswith(expected) for problem in problems)


def test_evaluation_may_be_switched_off_where_something_else_ends_the_run(experiment_of, problems_of):
    off = "    evaluation_interval: null\n"
    both = edited("training_iteration: 3", "training_iteration: 3, evaluation/success_rate: 0.9") + off
    assert experiment_of(both).stop["training_iteration"] == 3
    (problem,) = problems_of(edited("training_iteration: 3", "evaluation/success_rate: 0.9") + off)
    assert "is never reported" in problem
