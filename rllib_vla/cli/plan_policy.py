"""Which policy `rllib plan` counts: sizes, action space and prompts as the run itself has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import envs
from policies.openvla_oft import OpenVLAOFTConfig, read_config
from policies.openvla_oft.configuration import AUTOREGRESSIVE, PRESETS
from policies.openvla_oft.processing import Processor
from policies.openvla_oft.tokenization import PromptTokenizer
from rllib_vla.cli.problems import InputError, Problem

if TYPE_CHECKING:
    from rllib_vla.algorithms.grpo import GRPOConfig

# Prompt tokens where no tokenizer is at hand: the longest of LIBERO's instructions in the released prompt has 46.
_DEFAULT_PROMPT_LENGTH = 48


def read_policy(config: GRPOConfig, preset: str | None) -> tuple[OpenVLAOFTConfig, int]:
    """Returns the policy's configuration and the number of prompt tokens, padding included.

    Args:
        config: Validated configuration.
        preset: Name of the policy's size, instead of that of the checkpoint.

    Raises:
        InputError: It is somebody else's RLModule; or the checkpoint is not here, and no `preset` says how large it is.
    """
    if config.module_class is not None:
        raise InputError("a plan can be made of OpenVLA-OFT only, not of `module_class`")
    least = envs.get_suite(config.env).prompt_length
    if preset is not None:
        return _preset_for(config, preset), max(least, _DEFAULT_PROMPT_LENGTH)
    path = Path(config.model_config["model_path"])
    if not path.is_dir():
        raise InputError(
            f"model_path: {path} is not on this machine (nothing is downloaded for a plan). Name its size with --preset"
        )
    policy = read_config(path, config.model_config.get("unnorm_key"), decoding=config.model_config.get("decoding"))
    processor = Processor(policy, PromptTokenizer.from_pretrained(path, policy), None)
    instructions = envs.list_instructions(config.env, config.get_simulator_config())
    return policy, max(least, *(len(processor.prompt_ids(text)) for text in instructions))


def _preset_for(config: GRPOConfig, preset: str) -> OpenVLAOFTConfig:
    """A preset with the action space of the suite."""
    if preset not in PRESETS:
        raise InputError([Problem(f"unknown preset; valid: {', '.join(PRESETS)}", source="--preset")])
    chunk_size, action_dim = config.get_environment_spaces()[1].shape
    if config.model_config.get("decoding") == AUTOREGRESSIVE:  # plain OpenVLA decides one action at a time
        plain = {"decoding": AUTOREGRESSIVE, "chunk_size": 1, "action_slot_embeddings": False}
        return OpenVLAOFTConfig.preset(preset, action_dim=action_dim, **plain)
    return OpenVLAOFTConfig.preset(preset, chunk_size=chunk_size, action_dim=action_dim)
