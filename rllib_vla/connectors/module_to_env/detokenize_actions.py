"""Module-to-env: action tokens -> chunk of simulator actions."""

import copy
from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from policies.openvla_oft import OpenVLAOFTPolicy, libero_gripper_to_env


class DetokenizeActions(ConnectorV2):
    """Turns sampled bins into the chunk that the simulator executes.

    bins int [N] -> normalised float [C, D] in [-1, 1] -> physical units (checkpoint statistics) -> the
    benchmark's convention (LIBERO: the gripper's sign).

    Reads (batch): `Columns.ACTIONS`. Adds (batch): `Columns.ACTIONS_FOR_ENV`, float32 [C, D]. The tokens stay in
    `Columns.ACTIONS`: they are what the learner needs.

    Args:
        libero_gripper: The last dimension is a gripper in OpenVLA's convention (1 = open, 0 = closed) and the
            simulator wants LIBERO's (-1 = open, +1 = closed).
    """

    def __init__(self, input_observation_space=None, input_action_space=None, *, libero_gripper: bool = True, **kwargs):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.libero_gripper = libero_gripper

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
        batch[Columns.ACTIONS_FOR_ENV] = copy.deepcopy(batch[Columns.ACTIONS])
        self.foreach_batch_item_change_in_place(
            batch,
            Columns.ACTIONS_FOR_ENV,
            func=lambda bins, *ids: self._to_simulator(bins, rl_module.policy),
        )
        return batch

    def _to_simulator(self, bins: np.ndarray, policy: OpenVLAOFTPolicy) -> np.ndarray:
        chunk = policy.decode(bins[None] + policy.config.first_action_id)[0]
        if self.libero_gripper:
            chunk = libero_gripper_to_env(chunk)
        return chunk.astype(np.float32)
