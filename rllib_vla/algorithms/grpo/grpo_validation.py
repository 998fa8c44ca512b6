"""Checks of GRPO's settings: bad ones are refused before any actor starts, in a message that names the key."""

import functools
import math
import numbers
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

import envs
from envs.base import unknown_name
from policies.openvla_oft import LoRAConfig, read_config
from policies.openvla_oft.configuration import AUTOREGRESSIVE, PARALLEL
from policies.openvla_oft.weights import weight_files
from rllib_vla.connectors.group.group_relative_advantages import ADVANTAGE_ESTIMATORS
from rllib_vla.connectors.learner.add_token_weights import LOSS_AGGREGATIONS
from rllib_vla.distributed.parallelize import STRATEGIES
from rllib_vla.distributed.placement import (
    COLLOCATED,
    PLACEMENTS,
    SIMULATOR_SCHEDULINGS,
    shares_gpu,
    shares_process,
)
from rllib_vla.env_runners.pool_size import AUTO
from rllib_vla.env_runners.simulator import MAX_SLOTS_WITHOUT_SNAPSHOTS
from rllib_vla.policy_fit import policy_misfit
from rllib_vla.scene_keys import SCENE_KEYS, TASKS

if TYPE_CHECKING:
    from rllib_vla.algorithms.grpo.grpo_config import GRPOConfig

_WHOLE = (
    "group_size", "num_groups_per_train_batch", "max_sampling_rounds", "num_envs_per_simulator", "num_epochs",
    "max_consecutive_nonfinite_updates", "max_consecutive_simulator_failures",
    "evaluation_num_scenes_per_task", "num_groups_per_sampling_round", "minibatch_size", "micro_batch_size",
    "micro_batch_tokens",
)  # fmt: skip
_POSITIVE = (
    *_WHOLE, "temperature", "advantage_epsilon", "adam_epsilon", "simulator_timeout_s",
    "simulator_start_timeout_s", "clip_param_low", "clip_param_high", "grad_clip",
    "importance_weight_cap",
)  # fmt: skip
_NOT_NEGATIVE = (
    "kl_coeff", "entropy_coeff", "weight_decay", "max_group_staleness", "max_sampling_staleness",
    "num_cpus_per_simulator", "num_simulators_per_env_runner", "evaluation_num_videos", "num_learners",
    "num_env_runners",
)  # fmt: skip
# Numbers, or "auto" (and null, which means the same).
_AUTOMATIC = ("num_simulators_per_env_runner", "num_envs_per_simulator")
_OPTIONAL = (
    "num_groups_per_sampling_round",
    "minibatch_size",
    "micro_batch_size",
    "micro_batch_tokens",
    "grad_clip",
    "importance_weight_cap",
)
_DTYPES = ("float32", "bfloat16")
_MODEL_KEYS = ("model_path", "unnorm_key", "dtype", "decoding", "lora", "freeze")  # of OpenVLAOFTRLModule
# RLlib's settings that nothing reads here, and what to write instead.
_WITHOUT_EFFECT = {
    "gamma": "rewards are 0 or 1 at the end of a trajectory and not discounted",
    "train_batch_size": "use `num_groups_per_train_batch`",
    "_train_batch_size_per_learner": "use `num_groups_per_train_batch`",
    "num_envs_per_env_runner": "use `num_envs_per_simulator`",
    "rollout_fragment_length": "trajectories are played to their end",
    "optimizer": "use `adam_betas`, `adam_epsilon` and `weight_decay`",
    "num_gpus": "use `num_gpus_per_learner` and `num_gpus_per_env_runner`",
    "evaluation_duration": "use `evaluation_num_scenes_per_task`",
    "evaluation_duration_unit": "use `evaluation_num_scenes_per_task`",
    "evaluation_parallel_to_training": "GRPO evaluates between iterations, on the training runners",
}


def check_settings(config: "GRPOConfig") -> None:
    """Checks everything that can be known without a simulator and without the model's weights.

    Raises:
        ValueError: For the first setting that cannot be used.
    """
    _check_numbers(config)
    if not config.in_evaluation:
        _check_settings_without_effect(config)
    _check_learners(config)
    if isinstance(config.env, str):
        _check_environment(config)
    _check_model_keys(config)
    if config._model_config.get("lora") is not None:
        try:
            LoRAConfig.from_dict(config._model_config["lora"])
        except ValueError as error:
            config._value_error(f"`model_config`: {error}.")
    _check_frozen_parts(config)
    if config._model_config.get("decoding") not in (None, PARALLEL, AUTOREGRESSIVE):
        config._value_error(
            f"`model_config['decoding']` must be '{PARALLEL}' (OpenVLA-OFT) or '{AUTOREGRESSIVE}' (plain OpenVLA), is "
            f"{config._model_config['decoding']!r}."
        )
    if config.advantage_estimator not in ADVANTAGE_ESTIMATORS:
        config._value_error(f"`advantage_estimator` must be one of {ADVANTAGE_ESTIMATORS}.")
    if config.loss_aggregation not in LOSS_AGGREGATIONS:
        config._value_error(f"`loss_aggregation` must be one of {LOSS_AGGREGATIONS}.")
    _check_processes(config)
    _check_module_class(config)
    if config.evaluation_num_env_runners:
        config._value_error(
            "`evaluation_num_env_runners` must be 0: GRPO evaluates on the training runners, which idle then."
        )
    # What is missing comes last: a caller that leaves out what is wrong learns of all that is wrong first.
    if not isinstance(config.env, str):
        config._value_error("`env` is missing: `environment(...)` must name a benchmark suite, e.g. 'libero_blocks'.")
    if "model_path" not in config._model_config:
        config._value_error("`rl_module(model_config={'model_path': ...})` must name the initial policy.")
    _check_policy(config)


def _check_settings_without_effect(config: "GRPOConfig") -> None:
    from rllib_vla.algorithms.grpo.grpo_config import GRPOConfig

    if type(config) is not GRPOConfig:
        return  # a variant may read them
    defaults = _rllib_defaults()
    for name, remedy in _WITHOUT_EFFECT.items():
        if getattr(config, name) != getattr(defaults, name):
            config._value_error(f"`{name.lstrip('_')}` has no effect on GRPO: {remedy}.")


@functools.cache
def _rllib_defaults() -> AlgorithmConfig:
    return AlgorithmConfig()


def _check_model_keys(config: "GRPOConfig") -> None:
    if config.module_class is not None:
        return
    for key in config._model_config:
        if key not in _MODEL_KEYS:
            config._value_error(f"`model_config`: {unknown_name('key', key, _MODEL_KEYS)}.")


def _check_policy(config: "GRPOConfig") -> None:
    """Refuses an initial policy that could not be used, as far as its JSON files tell; hub ids are not fetched."""
    directory = Path(config._model_config["model_path"])
    if config.module_class is not None or not directory.is_dir():
        return
    try:
        policy = read_config(
            directory, config._model_config.get("unnorm_key"), decoding=config._model_config.get("decoding")
        )
        weight_files(directory)
    except (FileNotFoundError, ValueError) as error:
        key = "unnorm_key" if "unnorm_key" in str(error) else "model_path"
        config._value_error(f"`model_config['{key}']`: {error}.")
    if message := policy_misfit(policy, config):
        config._value_error(f"`model_config['model_path']`: {message}.")


def _check_processes(config: "GRPOConfig") -> None:
    for name, valid in (("placement", PLACEMENTS), ("simulator_scheduling", SIMULATOR_SCHEDULINGS)):
        if getattr(config, name) not in valid:
            config._value_error(f"`{name}` must be one of {valid}, is {getattr(config, name)!r}.")
    if config.in_evaluation:
        return
    staleness = config.max_sampling_staleness
    if not isinstance(staleness, numbers.Integral):
        config._value_error(f"`max_sampling_staleness` must be a whole number, is {staleness!r}.")
    if staleness and not config.num_env_runners:
        config._value_error(
            "`max_sampling_staleness` above 0 needs `num_env_runners` of at least 1: the runner in the main process "
            "cannot sample during an update."
        )
    if staleness > config.max_group_staleness:
        config._value_error(
            f"`max_sampling_staleness` is {staleness}, but `max_group_staleness` drops groups that are more than "
            f"{config.max_group_staleness} updates old: raise the latter."
        )
    if staleness and shares_gpu(config):
        config._value_error(
            "`max_sampling_staleness` above 0 needs `placement: disaggregated`: on a shared GPU learner and runner "
            "take turns."
        )
    if config.offload_idle_model and config.placement != COLLOCATED:
        config._value_error("`offload_idle_model` is for `placement: collocated`: elsewhere nothing is idle by turns.")
    if config.offload_idle_model and not (shares_process(config) or config.num_learners == config.num_env_runners):
        config._value_error(
            "`offload_idle_model` needs as many learners as runners (`num_learners`, `num_env_runners`)."
        )


def _check_frozen_parts(config: "GRPOConfig") -> None:
    """Names are looked up in the model itself where its checkpoint is on this machine, else when it is loaded."""
    parts = config._model_config.get("freeze")
    if parts is None:
        return
    if isinstance(parts, str) or not all(isinstance(part, str) for part in parts):
        config._value_error(f"`model_config['freeze']` must be a list of names of the model's parts, is {parts!r}.")
    if config.module_class is None and Path(config._model_config.get("model_path", "")).is_dir():
        from rllib_vla.rl_modules.openvla_oft_rl_module import OpenVLAOFTRLModule

        try:
            is_trained = OpenVLAOFTRLModule.num_trained_parameters(config._model_config | {"lora": None}) > 0
        except ValueError as error:
            config._value_error(f"`model_config`: {error}.")
        if not is_trained:
            config._value_error(f"`model_config['freeze']` is {parts!r}: nothing is left to train.")


def _check_module_class(config: "GRPOConfig") -> None:
    if config.module_class is None:
        return
    from rllib_vla.algorithms.grpo.default_grpo_rl_module import DefaultGRPORLModule

    if not isinstance(config.module_class, type) or not issubclass(config.module_class, DefaultGRPORLModule):
        config._value_error(
            f"`module_class` must be a class that implements DefaultGRPORLModule, is {config.module_class!r}."
        )


def _check_learners(config: "GRPOConfig") -> None:
    if config.parallelism not in STRATEGIES:
        config._value_error(f"`parallelism` must be one of {STRATEGIES}, is {config.parallelism!r}.")
    for name in ("activation_checkpointing", "compile_blocks", "cpu_offload", "async_checkpoints"):
        if not isinstance(getattr(config, name), bool):
            config._value_error(f"`{name}` must be true or false, is {getattr(config, name)!r}.")
    dtype = config._model_config.get("dtype", "float32")
    for name, value in (("model_config['dtype']", dtype), ("master_dtype", config.get_master_dtype())):
        if value not in _DTYPES:
            config._value_error(f"`{name}` must be one of {_DTYPES}, is {value!r}.")
    if config.get_master_dtype() == "bfloat16" and dtype == "float32":
        config._value_error("`master_dtype` must not be coarser than the model's (`model_config['dtype']`).")
    if config.master_dtype == "bfloat16" and config._model_config.get("lora") is not None:
        config._value_error("`master_dtype` cannot be 'bfloat16' with `lora`: adapters are always float32.")
    if config.parallelism == "fsdp2" or config.needs_sharding():
        cause = "`parallelism: fsdp2`" if config.parallelism == "fsdp2" else "`cpu_offload` or a `master_dtype`"
        if config.parallelism == "ddp":
            config._value_error(f"{cause} other than the model's needs `parallelism` 'auto' or 'fsdp2', not 'ddp'.")
        if config.num_learners < 1:
            config._value_error(f"{cause} needs learner processes: set `num_learners` to 1 or more.")
        if config.grad_clip is not None and config.grad_clip_by != "global_norm":
            config._value_error(f"{cause} needs `grad_clip_by` 'global_norm', not {config.grad_clip_by!r}.")
    if config.torch_compile_learner:
        config._value_error("`torch_compile_learner` does nothing for this learner: use `compile_blocks`.")


def _check_environment(config: "GRPOConfig") -> None:
    tasks = config.env_config.get(TASKS)
    try:
        envs.validate_env_config(config.env, config.env_config, also=SCENE_KEYS)
        num_slots = config.num_envs_per_simulator
        is_chosen = num_slots not in (None, AUTO)
        if is_chosen and not envs.supports_snapshots(config.env) and num_slots > MAX_SLOTS_WITHOUT_SNAPSHOTS:
            config._value_error(
                f"`num_envs_per_simulator` is {num_slots}, but a running episode of "
                f"{config.env!r} cannot be saved, so that each needs a simulation process of its own: at most "
                f"{MAX_SLOTS_WITHOUT_SNAPSHOTS}. Raise `num_simulators_per_env_runner` for more at the same time."
            )
        if not config.get_training_scenes():
            config._value_error(
                "`env_config['tasks']` must name at least one task that is not in `unseen_tasks`, or be left out."
            )
        scenes = envs.list_scenes(config.env, config.evaluation_split, tasks, config.get_simulator_config())
        fewest = min(Counter(scene.task for scene in scenes).values())
        if config.evaluation_interval and config.evaluation_num_scenes_per_task > fewest:
            config._value_error(
                f"`evaluation_num_scenes_per_task` is {config.evaluation_num_scenes_per_task}, but a task has only "
                f"{fewest} scenes in the split {config.evaluation_split!r}."
            )
        config.get_environment_spaces()
    except (ValueError, RuntimeError) as error:
        config._value_error(str(error))


def _check_numbers(config: "GRPOConfig") -> None:
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value = getattr(config, name)
        if (value is None and name in _OPTIONAL) or (value in (None, AUTO) and name in _AUTOMATIC):
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Integral if name in _WHOLE else numbers.Real):
            kind = "a whole number" if name in _WHOLE else "a number"
            kind += " or 'auto'" if name in _AUTOMATIC else ""
            config._value_error(f"`{name}` must be {kind}, is {value!r}.")
        if name in _POSITIVE and not value > 0:
            config._value_error(f"`{name}` must be positive, is {value}.")
        if not math.isfinite(value):
            config._value_error(f"`{name}` must be finite, is {value}.")
        if name in _NOT_NEGATIVE and not value >= 0:
            config._value_error(f"`{name}` must not be negative, is {value}.")
    if isinstance(config.lr, numbers.Real) and not 0 < config.lr < math.inf:
        config._value_error(f"`lr` must be a positive number, is {config.lr}.")
    betas = config.adam_betas
    if not isinstance(betas, list | tuple) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        config._value_error(f"`adam_betas` must be two numbers in [0, 1), is {betas!r}.")
    if config.group_size < 2:
        config._value_error("`group_size` must be at least 2: members are compared with one another.")
    if config.clip_param_low >= 1:
        config._value_error("`clip_param_low` must be below 1: ratios are positive.")
    if config.dual_clip is not None and config.dual_clip <= 1:
        config._value_error("`dual_clip` must be above 1 (or None).")
    if not 0 <= config.success_rate_low <= config.success_rate_high <= 1:
        config._value_error(
            "`success_rate_low` and `success_rate_high` are shares, 0 <= low <= high <= 1; they are "
            f"{config.success_rate_low:g} and {config.success_rate_high:g}."
        )
    if config.num_groups_per_train_batch < max(1, config.num_learners):
        config._value_error("`num_groups_per_train_batch` must be at least `num_learners`.")
