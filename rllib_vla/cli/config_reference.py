"""The reference of GRPO's settings, made from `GRPOConfig`: keys, types and defaults cannot go out of date."""

from __future__ import annotations

import inspect
import re
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_vla.algorithms.grpo import GRPOConfig
from rllib_vla.cli.config_schema import Argument, ConfigSchema
from rllib_vla.cli.value_types import describe

# RLlib's own settings that matter for GRPO. RLlib documents many more.
RLLIB_SETTINGS = {
    "lr": "Learning rate of AdamW, or a piecewise linear schedule `[[env steps, value], ...]`.",
    "grad_clip": "Bound of the gradient's norm; null: none.",
    "grad_clip_by": "What `grad_clip` bounds.",
    "minibatch_size": "Trajectories per optimizer step, over all learners together; null: the whole train batch.",
    "num_epochs": "Passes over a train batch.",
    "shuffle_batch_per_epoch": "Draw a new order of trajectories for every pass.",
    "env_config": "Which `tasks` of the suite (a list; all if left out), and the environment's own settings.",
    "model_config": "`model_path`: the initial policy, a folder or hub id. `unnorm_key`: whose action statistics. "
    "`dtype`: `float32` or `bfloat16`. `decoding`: `autoregressive` for a released plain OpenVLA. `lora`: only "
    "adapters are trained. `freeze`: parts that are not trained.",
    "num_env_runners": "Environment runners in processes of their own; 0: one, in the algorithm's process.",
    "num_gpus_per_env_runner": "GPUs reserved for each of them; may be a fraction.",
    "sample_timeout_s": "How long a sampling round may take; null: as long as it wants.",
    "num_learners": "Learners in processes of their own; 0: one, in the algorithm's process.",
    "num_gpus_per_learner": "GPUs reserved for each of them.",
    "evaluation_sample_timeout_s": "How long an evaluation may take; what is not back by then does not count. null: as "
    "long as it wants.",
    "evaluation_interval": "Training iterations between evaluations; null: no evaluation.",
    "restart_failed_env_runners": "Replace environment runners that die.",
    "seed": "Determines scenes, sampling noise and the order of minibatches.",
}
_UNITS = {
    "temperature": "",
    "group_size": "trajectories",
    "num_groups_per_train_batch": "groups",
    "num_groups_per_sampling_round": "groups",
    "max_sampling_rounds": "rounds",
    "max_group_staleness": "updates",
    "max_sampling_staleness": "train batches",
    "importance_weight_cap": "",
    "success_rate_low": "share",
    "success_rate_high": "share",
    "micro_batch_size": "model calls",
    "micro_batch_tokens": "tokens",
    "minibatch_size": "trajectories",
    "max_consecutive_nonfinite_updates": "optimizer steps",
    "num_epochs": "passes",
    "num_simulators_per_env_runner": "processes",
    "num_envs_per_simulator": "trajectories",
    "num_cpus_per_simulator": "CPUs",
    "max_consecutive_simulator_failures": "failures",
    "num_threads_for_update": "threads",
    "evaluation_num_scenes_per_task": "scenes",
    "evaluation_num_videos": "videos",
    "evaluation_interval": "iterations",
    "num_gpus_per_env_runner": "GPUs",
    "num_gpus_per_learner": "GPUs",
    "num_env_runners": "processes",
    "num_learners": "processes",
}
_TYPES = {
    "lr": "a number or a list of pairs",
    "adam_betas": "two numbers",
    "model_config": "a mapping",
}
# SimpleVLA-RL (arXiv 2509.09674) and its reference implementation, LIBERO recipe.
_PAPER: dict[str, Any] = {
    "temperature": 1.6,
    "group_size": 8,
    "num_groups_per_train_batch": 64,
    "max_sampling_rounds": "one epoch",
    "max_group_staleness": "0 (surplus is dropped)",
    "max_sampling_staleness": 0,
    "placement": "collocated",
    "offload_idle_model": "gradients, moments",
    "dynamic_sampling": True,
    "success_rate_low": 0.1,
    "success_rate_high": 0.9,
    "clip_param_low": 0.2,
    "clip_param_high": 0.28,
    "dual_clip": None,
    "advantage_estimator": "grpo",
    "advantage_epsilon": 1e-6,
    "loss_aggregation": "trajectory",
    "kl_coeff": 0.0,
    "entropy_coeff": 0.0,
    "adam_betas": (0.9, 0.999),
    "adam_epsilon": 1e-8,
    "weight_decay": 0.01,
    "micro_batch_size": 16,
    "lr": 5e-6,
    "grad_clip": 1.0,
    "minibatch_size": 128,
    "num_epochs": 1,
    "evaluation_interval": 4,
    "evaluation_split": "train (it has no other)",
    "evaluation_num_scenes_per_task": 50,
}
_HEAD = """\
# Settings of GRPO

Generated from `GRPOConfig` by `make config-reference`; a test keeps it current. In an experiment file a setting stands
under `config`, either below its section or directly; [cli.md](cli.md) explains files. `rllib config show FILE` prints
every value of a file with its origin.

*Paper*: SimpleVLA-RL (arXiv 2509.09674) and its reference implementation, LIBERO recipe; empty where it has no such
setting. Other settings of RLlib's `AlgorithmConfig` can be used as well; those without effect on GRPO are refused.
"""


def reference_page() -> str:
    """Returns the page as Markdown.

    Raises:
        ValueError: A setting is not described in the docstring of its method, or a table here names a setting that
            does not exist.
    """
    config = GRPOConfig()
    schema = ConfigSchema(config)
    if unknown := (_UNITS.keys() | _PAPER.keys() | RLLIB_SETTINGS.keys()) - schema.flat.keys():
        raise ValueError(f"no such settings: {sorted(unknown)}")
    lines = [_HEAD]
    for section in _sections(schema):
        meanings = _meanings(section)
        lines += [f"## `{section}`\n", "| key | type | default | unit | paper | meaning |", "|---|---|---|---|---|---|"]
        for argument in schema.sections[section].values():
            if argument.name in RLLIB_SETTINGS:
                meaning = RLLIB_SETTINGS[argument.name]
            elif argument.is_own:
                meaning = meanings[argument.name]
            else:
                continue
            lines.append(_row(argument, getattr(config, argument.attribute), meaning))
        lines.append("")
    return "\n".join(lines)


def _sections(schema: ConfigSchema) -> list[str]:
    """Returns the sections with something to tell, the algorithm's own first."""
    weight = {
        name: sum(argument.is_own for argument in arguments.values())
        for name, arguments in schema.sections.items()
        if any(argument.is_own or argument.name in RLLIB_SETTINGS for argument in arguments.values())
    }
    return sorted(weight, key=lambda name: (-weight[name], name))


def _meanings(section: str) -> dict[str, str]:
    """Returns argument -> text of the "Args:" part of a section's docstring."""
    method = getattr(GRPOConfig, section)
    if method is getattr(AlgorithmConfig, section, None):
        return {}
    arguments = inspect.getdoc(method).partition("Args:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    meanings = {name: " ".join(text.split()) for name, text in entries}
    declared = [name for name in inspect.signature(method).parameters if name not in ("self", "kwargs")]
    if missing := [name for name in declared if name not in meanings]:
        raise ValueError(f"GRPOConfig.{section}() does not describe {missing}")
    return meanings


def _row(argument: Argument, default: Any, meaning: str) -> str:
    unit = _UNITS.get(argument.name, "s" if argument.name.endswith("_s") else "")
    paper = _value(_PAPER[argument.name]) if argument.name in _PAPER else ""
    # RLlib marks "not given" by a default of None, which makes every annotation optional.
    meaning = meaning.replace("None:", "null:")
    kind = _TYPES.get(argument.name) or describe(argument.annotation)
    if default is not None and "null:" not in meaning:
        kind = kind.removesuffix(" or null")
    cells = [f"`{argument.name}`", kind, _value(default), unit, paper, meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:g}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if not isinstance(value, dict) or value else "{}"
