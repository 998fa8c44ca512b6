"""Group pipeline: advantages of the members of a group relative to one another."""

from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.annotations import override

from rllib_vla.connectors.group.group_outcome_filter import by_group

# The reference multiplies success by 5 before normalising; the factor cancels but for the weight of epsilon.
SUCCESS_REWARD = 5.0
ADVANTAGE_ESTIMATORS = ("grpo", "rloo", "mean_baseline")


def group_advantages(returns: np.ndarray, estimator: str = "grpo", epsilon: float = 1e-6) -> np.ndarray:
    r"""Advantages of one group.

    With returns :math:`R_i` of G members:

    - ``grpo``: :math:`(R_i - \bar R) / (\sigma + \epsilon)`, :math:`\sigma` unbiased (ddof 1);
    - ``rloo``: :math:`R_i - \frac{1}{G-1} \sum_{j \ne i} R_j` (leave-one-out baseline);
    - ``mean_baseline``: :math:`R_i - \bar R` (REINFORCE with the group mean as baseline).

    Args:
        returns: float [G].
        estimator: One of `ADVANTAGE_ESTIMATORS`.
        epsilon: Guards the division of ``grpo``.

    Returns:
        float32 [G]. A group of one keeps its own return, as in the reference: there is nothing to compare with.
    """
    returns = np.asarray(returns, dtype=np.float64)
    num_members = len(returns)
    if num_members == 1:
        return returns.astype(np.float32)
    centered = returns - returns.mean()
    if estimator == "grpo":
        advantages = centered / (returns.std(ddof=1) + epsilon)
    elif estimator == "rloo":
        advantages = centered * num_members / (num_members - 1)
    elif estimator == "mean_baseline":
        advantages = centered
    else:
        raise ValueError(f"unknown advantage estimator {estimator!r}; choose one of {ADVANTAGE_ESTIMATORS}")
    return advantages.astype(np.float32)


class GroupRelativeAdvantages(ConnectorV2):
    """Writes each member's advantage to all its model calls.

    Reads (episode): `custom_data` (`group_id`, `success`).
    Writes (episode): `extra_model_outputs[Columns.ADVANTAGES]`, float32, one (equal) value per model call.

    Args:
        estimator: See `group_advantages`.
        epsilon: See `group_advantages`.
    """

    def __init__(
        self,
        input_observation_space=None,
        input_action_space=None,
        *,
        estimator: str = "grpo",
        epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.estimator = estimator
        self.epsilon = epsilon

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        rl_module: RLModule,
        batch: dict[str, Any],
        episodes: list[SingleAgentEpisode],
        explore: bool | None = None,
        shared_data: dict | None = None,
        **kwargs,
    ) -> dict[str, Any]:
        for members in by_group(episodes).values():
            returns = np.array([SUCCESS_REWARD * member.custom_data["success"] for member in members])
            for member, advantage in zip(members, group_advantages(returns, self.estimator, self.epsilon), strict=True):
                column = np.full(len(member), advantage, np.float32)
                member.extra_model_outputs[Columns.ADVANTAGES] = InfiniteLookbackBuffer(column)
        return batch
