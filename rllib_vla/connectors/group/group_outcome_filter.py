"""Group pipeline: dynamic sampling."""

from collections import defaultdict
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override


def by_group(episodes: list[SingleAgentEpisode]) -> dict[int, list[SingleAgentEpisode]]:
    """Sorts episodes into their groups, keeping the order."""
    groups = defaultdict(list)
    for episode in episodes:
        groups[episode.custom_data["group_id"]].append(episode)
    return dict(groups)


class GroupOutcomeFilter(ConnectorV2):
    """Drops groups whose members all did (nearly) equally well: they carry no learning signal.

    Keeps a group when `low <= mean success <= high` (paper: dynamic sampling; reference: 0.1 and 0.9, which for
    groups of 8 keeps 1 to 7 successes). Removes the episodes of other groups from the list in place.

    Args:
        low: Smallest mean success that is kept.
        high: Largest mean success that is kept.
    """

    def __init__(
        self,
        input_observation_space=None,
        input_action_space=None,
        *,
        low: float = 0.1,
        high: float = 0.9,
        **kwargs,
    ):
        super().__init__(input_observation_space, input_action_space, **kwargs)
        self.low = low
        self.high = high

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
        kept = []
        for members in by_group(episodes).values():
            mean_success = sum(member.custom_data["success"] for member in members) / len(members)
            if self.low <= mean_success <= self.high:
                kept += members
        episodes[:] = kept
        return batch
