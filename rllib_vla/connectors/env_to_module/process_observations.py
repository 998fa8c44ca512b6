"""Env-to-module: raw observation -> what the model reads."""

from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override

from rllib_vla.columns import ATTENTION_MASK, INPUT_IDS


class ProcessObservations(ConnectorV2):
    """Runs the policy's processor on the latest observation of each episode and stores the result there.

    Reads (episode): the environment's observation: `image` uint8 [H, W, 3], `proprio` float32 [P], `instruction`.
    Writes (episode): `images` uint8 [1, S, S, 3], `input_ids` int64 [L], `attention_mask` bool [L] and, where the
    checkpoint uses proprioception, `proprio` float32 [P]. The frame is processed once: sampling, object store and
    learner share the same uint8 array.

    All rows of a batch have the same length, so prompts are padded to the longest one of `instructions`; with
    `micro_batch_tokens` the learner trims columns that are padding in every row of a micro-batch.

    Args:
        instructions: All instructions of the suite.
        prompt_length: Prompts are padded to at least so many tokens.
    """

    def __init__(
        self,
        input_observation_space=None,
        input_action_space=None,
        *,
        instructions: list[str],
        prompt_length: int = 0,
        **kwargs,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.instructions = instructions
        self.prompt_length = prompt_length
        self._prompt_length: int | None = None

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
        raw = [episode.get_observations(-1) for episode in episodes]
        policy = rl_module.policy
        proprio = [o["proprio"] for o in raw] if policy.config.use_proprio else None
        processed = policy.processor([o["image"] for o in raw], [o["instruction"] for o in raw], proprio=proprio)
        if self._prompt_length is None:
            longest = max(len(policy.processor.prompt_ids(text)) for text in self.instructions)
            self._prompt_length = max(self.prompt_length, longest)
        missing = self._prompt_length - processed[INPUT_IDS].shape[1]
        if missing < 0:
            text = max((o["instruction"] for o in raw), key=len)
            raise ValueError(f"the suite promised prompts of at most {self._prompt_length} tokens; {text!r} is longer")
        padding = ((0, 0), (0, missing))
        processed[INPUT_IDS] = np.pad(processed[INPUT_IDS], padding, constant_values=policy.config.pad_token_id)
        processed[ATTENTION_MASK] = np.pad(processed[ATTENTION_MASK], padding)
        for i, episode in enumerate(episodes):
            episode.set_observations(at_indices=-1, new_data={key: values[i] for key, values in processed.items()})
        return batch
