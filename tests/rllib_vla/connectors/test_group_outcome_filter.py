import numpy as np
import pytest

from rllib_vla.connectors.group.group_outcome_filter import GroupOutcomeFilter, by_group
from tests.rllib_vla.toy import make_episode


def groups_with(successes: list[int], size: int = 8):
    return [make_episode(1, group_id=g, member=m, success=m < k) for g, k in enumerate(successes) for m in range(size)]


def kept(episodes, **kwargs) -> list[int]:
    GroupOutcomeFilter(**kwargs)(rl_module=None, batch={}, episodes=episodes)
    return list(by_group(episodes))


def test_keeps_one_to_seven_of_eight():
    assert kept(groups_with(list(range(9)))) == [1, 2, 3, 4, 5, 6, 7]


def test_keeps_every_member_of_a_kept_group_in_order():
    episodes = groups_with([3, 8])
    kept(episodes)
    assert [e.custom_data["member"] for e in episodes] == list(range(8))


def test_changes_the_list_in_place():
    episodes = groups_with([0, 4])
    same_list, batch = episodes, {"a": 1}
    returned = GroupOutcomeFilter()(rl_module=None, batch=batch, episodes=episodes)
    assert len(same_list) == 8
    assert returned is batch


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 1, 2, 3, 4]), (0.25, 0.5, [1, 2]), (0.3, 0.9, [2, 3]), (1.0, 1.0, [4])],
)
def test_bounds_are_inclusive(low, high, expected):
    assert kept(groups_with([0, 1, 2, 3, 4], size=4), low=low, high=high) == expected


def test_agrees_with_the_reference(reference_fixtures):
    data = np.load(reference_fixtures / "grpo.npz")
    episodes = [
        make_episode(1, group_id=int(g), member=i, success=bool(c))
        for i, (g, c) in enumerate(zip(data["group"], data["complete"], strict=True))
    ]
    assert kept(episodes) == np.flatnonzero(data["keep_group_0p1_0p9"]).tolist()
