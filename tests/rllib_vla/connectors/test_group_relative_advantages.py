import numpy as np
import pytest
from ray.rllib.core.columns import Columns

from rllib_vla.connectors.group.group_relative_advantages import GroupRelativeAdvantages, group_advantages
from tests.rllib_vla.toy import make_episode

# Advantage of a success and of a failure in a group of 8 with k successes, as published for the reference.
GOLDEN = {
    1: (2.474872, -0.353553),
    2: (1.620184, -0.540061),
    3: (1.207614, -0.724569),
    4: (0.935414, -0.935414),
    5: (0.724569, -1.207614),
    6: (0.540061, -1.620184),
    7: (0.353553, -2.474872),
}


def run(episodes, **kwargs):
    connector = GroupRelativeAdvantages(**kwargs)
    connector(rl_module=None, batch={}, episodes=episodes)
    return [episode.get_extra_model_outputs(Columns.ADVANTAGES) for episode in episodes]


@pytest.mark.parametrize("num_successes", GOLDEN)
def test_groups_of_eight(num_successes):
    returns = np.array([5.0] * num_successes + [0.0] * (8 - num_successes))
    advantages = group_advantages(returns)
    success, failure = GOLDEN[num_successes]
    assert advantages.dtype == np.float32
    # The table has six digits and was computed with an epsilon that shows in the sixth.
    np.testing.assert_allclose(advantages[:num_successes], success, atol=2e-6)
    np.testing.assert_allclose(advantages[num_successes:], failure, atol=2e-6)


@pytest.mark.parametrize("success", [True, False])
def test_without_contrast_advantages_are_zero(success):
    np.testing.assert_array_equal(group_advantages(np.full(8, 5.0 * success)), np.zeros(8))


def test_recorded_groups(reference_fixtures):
    data = np.load(reference_fixtures / "grpo.npz")
    mask = np.arange(168) < data["finish_step"][:, None] * 7
    episodes = [
        make_episode(3, group_id=int(group), member=i, success=bool(complete), num_control_steps=int(steps))
        for i, (group, complete, steps) in enumerate(
            zip(data["group"], data["complete"], data["finish_step"], strict=True)
        )
    ]
    ours = np.array([column[0] for column in run(episodes)])
    np.testing.assert_allclose(ours[:, None] * mask, data["advantages"], atol=1e-5)

    permuted = [episodes[i] for i in data["permutation"]]
    ours = np.array([column[0] for column in run(permuted)])
    np.testing.assert_allclose(ours[:, None] * mask[data["permutation"]], data["advantages_permuted"], atol=1e-5)


def test_recorded_groups_of_uneven_size(reference_fixtures):
    data = np.load(reference_fixtures / "grpo.npz")
    returns = data["uneven_rewards"].sum(axis=1)
    for group in np.unique(data["uneven_group"]):
        rows = data["uneven_group"] == group
        expected = data["uneven_advantages"][rows]
        ours = group_advantages(returns[rows])[:, None] * data["uneven_mask"][rows]
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_group_of_one_keeps_its_return():
    np.testing.assert_array_equal(group_advantages(np.array([5.0])), [5.0])
    np.testing.assert_array_equal(group_advantages(np.array([0.0])), [0.0])


def test_leave_one_out():
    returns = np.array([5.0, 0.0, 5.0, 0.0, 0.0])
    expected = [r - np.delete(returns, i).mean() for i, r in enumerate(returns)]
    np.testing.assert_allclose(group_advantages(returns, "rloo"), expected, rtol=1e-6)


def test_mean_baseline():
    np.testing.assert_allclose(
        group_advantages(np.array([5.0, 0.0, 0.0, 5.0, 5.0]), "mean_baseline"), [2, -3, -3, 2, 2], rtol=1e-6
    )


def test_unknown_estimator():
    with pytest.raises(ValueError, match="gae"):
        group_advantages(np.array([5.0, 0.0]), "gae")


def test_column_has_one_equal_value_per_model_call():
    episodes = [make_episode(3, success=True), make_episode(1, member=1), make_episode(2, member=2)]
    columns = run(episodes, estimator="mean_baseline")
    assert [len(column) for column in columns] == [3, 1, 2]
    for column, expected in zip(columns, [10 / 3, -5 / 3, -5 / 3], strict=True):
        np.testing.assert_allclose(column, expected, rtol=1e-6)


def test_groups_do_not_mix():
    alone = run([make_episode(1, group_id=1, member=m, success=m == 0) for m in range(4)])
    together = [make_episode(1, group_id=g, member=m, success=m <= g - 1) for m in range(4) for g in (1, 2)]
    mixed = run(together)
    of_group_1 = [c for c, e in zip(mixed, together, strict=True) if e.custom_data["group_id"] == 1]
    np.testing.assert_array_equal(np.concatenate(of_group_1), np.concatenate(alone))
