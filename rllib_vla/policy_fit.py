"""Whether a policy fits a suite."""

from typing import Any

import envs


def policy_misfit(policy: Any, config: Any) -> str | None:
    """Returns why a policy cannot play the suite of a `GRPOConfig`, and what to do; None if it can.

    Args:
        policy: `chunk_size` and `action_dim` of the policy, as attributes.
        config: Names the suite and has its `env_config`.
    """
    chunk_size, action_dim = config.get_environment_spaces()[1].shape
    if policy.action_dim == action_dim and policy.chunk_size <= chunk_size:
        return None
    remedy = "it was made for another suite"
    if policy.action_dim == action_dim and "chunk_size" in envs.config_keys(config.env):
        remedy = (
            f"set `chunk_size: {policy.chunk_size}` in `env_config` (`rllib evaluate`: "
            f"--config '{{chunk_size: {policy.chunk_size}}}')"
        )
    return (
        f"the policy's chunks are {policy.chunk_size} actions of {policy.action_dim} dimensions, but "
        f"{config.env} takes at most {chunk_size} of {action_dim}: {remedy}"
    )
