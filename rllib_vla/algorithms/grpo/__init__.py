"""GRPO: group-relative policy optimisation for vision-language-action policies."""

from rllib_vla.algorithms.grpo.grpo import GRPO
from rllib_vla.algorithms.grpo.grpo_config import GRPOConfig

__all__ = ["GRPO", "GRPOConfig"]
