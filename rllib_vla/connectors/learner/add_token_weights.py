"""Learner pipeline: how much each action token counts in the loss."""

from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_vla.columns import TOKEN_MASK, TOKEN_WEIGHT, TRAJECTORY_INDEX

LOSS_AGGREGATIONS = ("trajectory", "token")


class AddTokenWeights(ConnectorV2):
    r"""Adds the weight of every token and the trajectory every row belongs to.

    The loss is :math:`\frac{1}{Z} \sum_t w_t \ell_t` with

    - ``trajectory`` (reference): :math:`w_t = m_t / \sum_{t' \in \text{trajectory}} m_{t'}` and Z the number of
      trajectories: the mean over tokens within a trajectory, then the mean over trajectories;
    - ``token``: :math:`w_t = m_t` and Z the number of unmasked tokens of the minibatch.

    Weights are fixed here, on whole trajectories, so that minibatches, micro-batches and shards of the learner
    only ever add up parts of the same sum. The learner divides by Z = the sum of `w` over the global minibatch,
    which is the number of trajectories in the first case and the number of tokens in the second.

    Reads (episode): `extra_model_outputs["token_mask"]`. Adds (batch): `token_weight` float32 [N],
    `trajectory_index` int64, `weights_seq_no` int64 (version of the weights that sampled the row).

    Args:
        loss_aggregation: One of `LOSS_AGGREGATIONS`.
    """

    def __init__(
        self,
        input_observation_space=None,
        input_action_space=None,
        *,
        loss_aggregation: str = "trajectory",
        **kwargs,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.loss_aggregation = loss_aggregation

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
        trajectories = self.single_agent_episode_iterator(episodes, agents_that_stepped_only=False)
        for index, episode in enumerate(trajectories):
            weights = np.asarray(episode.get_extra_model_outputs(TOKEN_MASK), dtype=np.float32)
            if self.loss_aggregation == "trajectory":
                weights = weights / max(weights.sum(), 1.0)
            num_rows = len(episode)
            self.add_n_batch_items(batch, TOKEN_WEIGHT, weights, num_items=num_rows, single_agent_episode=episode)
            self.add_n_batch_items(
                batch,
                TRAJECTORY_INDEX,
                np.full(num_rows, index),
                num_items=num_rows,
                single_agent_episode=episode,
            )
            self.add_n_batch_items(
                batch,
                WEIGHTS_SEQ_NO,
                np.full(num_rows, episode.custom_data["weights_seq_no"]),
                num_items=num_rows,
                single_agent_episode=episode,
            )
        return batch
