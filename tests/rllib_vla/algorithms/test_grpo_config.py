import pytest

from rllib_vla.algorithms.grpo import GRPO, GRPOConfig
from tests.rllib_vla.toy import SUITE, toy_config
from tests.toy_suite import FAR_SUITE, FLEETING_SUITE

# Hyper-parameters of the reference's LIBERO recipe.
LIBERO_RECIPE = {
    "num_groups_per_train_batch": 64,
    "group_size": 8,
    "success_rate_low": 0.1,
    "success_rate_high": 0.9,
    "lr": 5e-6,
    "minibatch_size": 128,
    "num_epochs": 1,
    "clip_param_low": 0.2,
    "clip_param_high": 0.28,
    "grad_clip": 1.0,
    "grad_clip_by": "global_norm",
    "entropy_coeff": 0.0,
    "kl_coeff": 0.0,
    "temperature": 1.6,
    "dual_clip": None,
    "adam_betas": (0.9, 0.999),
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "advantage_estimator": "grpo",
    "advantage_epsilon": 1e-6,
    "loss_aggregation": "trajectory",
    "dynamic_sampling": True,
    "micro_batch_size": 16,
}


@pytest.mark.parametrize(("name", "value"), LIBERO_RECIPE.items())
def test_defaults_are_the_reference_recipe(name, value):
    assert getattr(GRPOConfig(), name) == value


def test_a_valid_configuration_passes(toy_policy_dir):
    config = toy_config(toy_policy_dir)
    config.validate()
    assert config.model_config["temperature"] == 1.0
    assert config.algo_class is GRPO


def test_settings_survive_the_round_trip_through_a_dict(toy_policy_dir):
    config = toy_config(toy_policy_dir, temperature=1.3, max_group_staleness=0, dual_clip=None, adam_betas=(0.8, 0.9))
    copy = GRPOConfig().update_from_dict(config.to_dict())
    for name in (*LIBERO_RECIPE, "max_group_staleness", "num_simulators_per_env_runner"):
        assert getattr(copy, name) == getattr(config, name), name


BAD_TRAINING = {
    "temperature": [0, -1.0, None, "hot"],
    "group_size": [1, 0, 2.5, None],
    "num_groups_per_train_batch": [0, None],
    "num_groups_per_sampling_round": [0, -2],
    "max_sampling_rounds": [0],
    "max_group_staleness": [-2],
    "success_rate_low": [-0.1, 0.95],
    "success_rate_high": [1.1, 0.05],
    "clip_param_low": [0, 1.0],
    "clip_param_high": [0],
    "dual_clip": [1.0, 0.5],
    "advantage_estimator": ["gae"],
    "advantage_epsilon": [0],
    "loss_aggregation": ["sum"],
    "kl_coeff": [-0.1],
    "entropy_coeff": [-0.1],
    "adam_betas": [(0.9,), (0.9, 1.0), 0.9],
    "adam_epsilon": [0],
    "weight_decay": [-0.1],
    "micro_batch_size": [0, -2],
    "micro_batch_tokens": [0, 2.5],
    "minibatch_size": [0, -4],
    "num_epochs": [0],
    "lr": [0.0, -1e-4],
    "grad_clip": [0.0, -1.0],
    "max_consecutive_nonfinite_updates": [0],
}
BAD_ENV_RUNNERS = {
    "num_simulators_per_env_runner": [-2],
    "num_envs_per_simulator": [0],
    "num_cpus_per_simulator": [-0.5],
    "simulator_timeout_s": [0],
    "simulator_start_timeout_s": [0],
    "max_consecutive_simulator_failures": [0],
}
BAD_EVALUATION = {
    "evaluation_split": ["test"],
    "evaluation_num_scenes_per_task": [0, 5],  # the toy suite has 4
    "evaluation_num_videos": [-2],
    "evaluation_num_env_runners": [1],
}


def cases(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(BAD_TRAINING))
def test_bad_training_settings(toy_policy_dir, name, value):
    with pytest.raises(ValueError, match=name):
        toy_config(toy_policy_dir, **{name: value}).validate()


@pytest.mark.parametrize(("name", "value"), cases(BAD_ENV_RUNNERS))
def test_bad_env_runner_settings(toy_policy_dir, name, value):
    with pytest.raises(ValueError, match=name):
        toy_config(toy_policy_dir).env_runners(**{name: value}).validate()


@pytest.mark.parametrize(("name", "value"), cases(BAD_EVALUATION))
def test_bad_evaluation_settings(toy_policy_dir, name, value):
    config = toy_config(toy_policy_dir).evaluation(evaluation_interval=1).evaluation(**{name: value})
    with pytest.raises(ValueError, match=name.removeprefix("evaluation_") if name == "evaluation_split" else name):
        config.validate()


def test_training_scenes_follow_the_environments_settings(toy_policy_dir):
    def tasks_and_splits(**settings):
        config = toy_config(toy_policy_dir)
        config.env_config |= settings
        config.validate()
        return sorted({(scene.task, scene.split) for scene in config.get_training_scenes()})

    assert tasks_and_splits() == [("go_left", "train"), ("go_right", "train")]
    assert tasks_and_splits(unseen_tasks=["go_left"]) == [("go_right", "train")]
    config = GRPOConfig().environment("libero_goal", env_config={"train_split": "reference"})
    assert {scene.split for scene in config.get_training_scenes()} == {"reference"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_split": "eval"}, "train_split.*held out"),
        ({"train_split": "trian"}, "did you mean 'train'"),
        ({"unseen_tasks": ["go_lef"]}, "did you mean 'go_left'"),
        ({"unseen_tasks": "go_left"}, "must be a list"),
        ({"unseen_tasks": ["go_left", "go_right"]}, "at least one task"),
    ],
)
def test_bad_choices_of_training_scenes(toy_policy_dir, settings, message):
    config = toy_config(toy_policy_dir)
    config.env_config |= settings
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_unknown_keys_are_refused():
    with pytest.raises(TypeError, match="temprature"):
        GRPOConfig().training(temprature=1.0)
    with pytest.raises(TypeError, match="num_simulator"):
        GRPOConfig().env_runners(num_simulator=1)


@pytest.mark.parametrize(
    ("suite", "env_config", "message"),
    [
        ("libero_block", {}, "libero_blocks"),
        (SUITE, {"tasks": ["go_lef"]}, "go_left"),
        (SUITE, {"tasks": []}, "tasks"),
        (SUITE, {"tolerence": 1.0}, "tolerance"),
        (None, {}, "environment"),
    ],
)
def test_bad_environments_name_the_remedy(toy_policy_dir, suite, env_config, message):
    with pytest.raises(ValueError, match=message):
        toy_config(toy_policy_dir).environment(suite, env_config=env_config).validate()


def test_missing_policy(toy_policy_dir, tmp_path):
    config = toy_config(toy_policy_dir).rl_module(model_config={"model_path": str(tmp_path / "nothing")})
    with pytest.raises((ValueError, FileNotFoundError), match="model_path"):
        config.validate()
    with pytest.raises(ValueError, match="model_path"):
        GRPOConfig().environment(SUITE).validate()


def test_every_learner_needs_a_group(toy_policy_dir):
    with pytest.raises(ValueError, match="num_learners"):
        toy_config(toy_policy_dir, num_groups_per_train_batch=1).learners(num_learners=2).validate()


@pytest.mark.parametrize(
    ("learners", "model", "message"),
    [
        ({"parallelism": "fsdp"}, {}, "`parallelism` must be one of"),
        ({"activation_checkpointing": 1}, {}, "`activation_checkpointing` must be true or false"),
        ({"compile_blocks": "yes"}, {}, "`compile_blocks` must be true or false"),
        ({"master_dtype": "float16"}, {}, "`master_dtype` must be one of"),
        ({}, {"dtype": "half"}, r"`model_config\['dtype'\]` must be one of"),
        ({"master_dtype": "bfloat16"}, {}, "must not be coarser"),
        ({"master_dtype": "bfloat16"}, {"dtype": "bfloat16", "lora": {}}, "adapters are always float32"),
        ({"parallelism": "fsdp2"}, {}, "set `num_learners` to 1 or more"),
        ({"cpu_offload": True}, {}, "set `num_learners` to 1 or more"),
        ({"master_dtype": "float32"}, {"dtype": "bfloat16"}, "set `num_learners` to 1 or more"),
        ({"parallelism": "ddp", "cpu_offload": True, "num_learners": 2}, {}, "not 'ddp'"),
        ({"torch_compile_learner": True}, {}, "use `compile_blocks`"),
    ],
)
def test_bad_learner_settings_name_the_remedy(toy_policy_dir, learners, model, message):
    config = toy_config(toy_policy_dir).rl_module(model_config={"model_path": toy_policy_dir} | model)
    config.framework(torch_compile_learner=learners.pop("torch_compile_learner", False))
    with pytest.raises(ValueError, match=message):
        config.learners(**learners).validate()


def test_shards_are_clipped_by_their_global_norm(toy_policy_dir):
    config = toy_config(toy_policy_dir, grad_clip_by="value").learners(parallelism="fsdp2", num_learners=1)
    with pytest.raises(ValueError, match="needs `grad_clip_by` 'global_norm'"):
        config.validate()


def test_adapters_need_no_sharding_for_their_master_weights(toy_policy_dir):
    config = toy_config(toy_policy_dir).learners(master_dtype="float32")
    config.rl_module(model_config={"model_path": toy_policy_dir, "dtype": "bfloat16", "lora": {"rank": 4}})
    config.validate()
    assert not config.needs_sharding()


def test_a_trial_reserves_its_simulators(toy_policy_dir):
    config = toy_config(toy_policy_dir).env_runners(
        num_env_runners=2, num_simulators_per_env_runner=3, num_cpus_per_simulator=0.5
    )
    bundles = GRPO.default_resource_request(config.to_dict()).bundles
    assert bundles[-6:] == [{"CPU": 0.5}] * 6
    assert len(bundles) == 1 + 2 + 6  # main process, runners, simulators


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, r"`model_config`: `lora\.rank` must be a whole number"),
        ({"rnk": 8}, "unknown key 'rnk'; did you mean 'rank'"),
        ({"dropout": 0.1}, r"`lora\.dropout` must be 0"),
    ],
)
def test_wrong_lora_settings_are_refused(toy_policy_dir, lora, message):
    config = toy_config(toy_policy_dir).rl_module(model_config={"model_path": toy_policy_dir, "lora": lora})
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("vision_backbone", "must be a list of names of the model's parts, is 'vision_backbone'"),
        (["vision_backbne"], "names 'vision_backbne', which is no part of the model; did you mean 'vision_backbone'"),
        (
            ["vision_backbone", "projector", "language_model", "action_slot_embeddings"],
            "nothing is left to train",
        ),
    ],
)
def test_wrong_frozen_parts_are_refused(toy_policy_dir, parts, message):
    config = toy_config(toy_policy_dir).rl_module(model_config={"model_path": toy_policy_dir, "freeze": parts})
    with pytest.raises(ValueError, match=message):
        config.validate()


def test_suites_without_snapshots_bound_the_trajectories_per_simulator(toy_policy_dir):
    config = toy_config(toy_policy_dir).environment(FLEETING_SUITE.name)
    with pytest.raises(ValueError, match=r"num_envs_per_simulator` is 8.*at most 2.*num_simulators_per_env_runner"):
        config.validate()
    config.env_runners(num_envs_per_simulator=2).validate()


def test_a_mixture_is_configured_like_a_suite(toy_policy_dir):
    config = toy_config(toy_policy_dir).environment(f"{SUITE}+{FAR_SUITE.name}", env_config={"tasks": ["go_left"]})
    config.validate()
    assert {scene.task for scene in config.get_training_scenes()} == {"go_left"}
    config.environment(env_config={"tasks": None, "unseen_tasks": ["go_far_left"]}).validate()
    assert {scene.task for scene in config.get_training_scenes()} == {"go_left", "go_right", "go_far_right"}
    with pytest.raises(ValueError, match="unknown suite"):
        toy_config(toy_policy_dir).environment(f"{SUITE}+libero_spatail").validate()


def test_settings_of_rllib_without_effect_are_refused_unless_a_variant_reads_them(toy_policy_dir):
    class Discounting(GRPOConfig):
        pass

    config = toy_config(toy_policy_dir).training(gamma=0.9)
    with pytest.raises(ValueError, match="`gamma` has no effect on GRPO"):
        config.copy(copy_frozen=False).validate()
    Discounting().update_from_dict(config.to_dict()).validate()
