"""Env-to-module: reproducible sampling noise."""

from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from rllib_vla.columns import SAMPLING_UNIFORMS


def sampling_uniforms(*, seed: int, group_id: int, member: int, call: int, num_tokens: int) -> np.ndarray:
    """Uniform numbers in [0, 1) for one model call of one trajectory, float32 [num_tokens].

    They depend on the arguments only (counter-based Philox generator): not on batch composition, timing, the number
    of simulators, or on how often a run was interrupted.
    """
    # The generator counts up the lowest word: it stays free, or neighbouring groups would share shifted noise.
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, group_id, member, call]))
    return generator.random(num_tokens, dtype=np.float32)


class AddSamplingNoise(ConnectorV2):
    """Adds one uniform number per action token to the batch when exploring.

    Reads (episode): `custom_data` (`seed`, `group_id`, `member`) and the number of model calls so far.
    Adds (batch): `sampling_uniforms` float32 [N] per row.
    """

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
        if not explore:
            return batch
        for episode in episodes:
            data = episode.custom_data
            uniforms = sampling_uniforms(
                seed=data["seed"],
                group_id=data["group_id"],
                member=data["member"],
                call=len(episode),
                num_tokens=rl_module.policy.config.num_action_tokens,
            )
            self.add_batch_item(batch, SAMPLING_UNIFORMS, uniforms, single_agent_episode=episode)
        return batch
