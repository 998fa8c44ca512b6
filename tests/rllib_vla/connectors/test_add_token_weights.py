import numpy as np
import pytest

from rllib_vla.columns import TOKEN_MASK, TOKEN_WEIGHT, TRAJECTORY_INDEX
from rllib_vla.connectors.learner.add_token_weights import AddTokenWeights
from tests.rllib_vla.toy import make_episode


def columns(episodes, **kwargs):
    """Weights and trajectory of every row, in the order of the episodes."""
    batch = AddTokenWeights(**kwargs)(rl_module=None, batch={}, episodes=episodes)
    return [[np.concatenate(items) for items in batch[name].values()] for name in (TOKEN_WEIGHT, TRAJECTORY_INDEX)]


def test_short_and_long_trajectories_contribute_equally():
    short, long = make_episode(1, num_control_steps=8), make_episode(64, member=1, num_control_steps=512)
    weights, _ = columns([short, long])
    assert [w.shape for w in weights] == [(1, 56), (64, 56)]
    assert all(w.dtype == np.float32 for w in weights)
    np.testing.assert_allclose(weights[0].sum(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights[1].sum(dtype=np.float64), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weights[0][0, 0] / weights[1][0, 0], 64.0, rtol=1e-5)


def test_masked_tokens_weigh_nothing():
    """Success after 11 of 16 control steps: 3 of the second chunk's 8 steps were executed."""
    weights, _ = columns([make_episode(2, success=True, num_control_steps=11)])
    flat = weights[0].reshape(-1)
    np.testing.assert_allclose(flat[: 11 * 7], 1 / 77, rtol=1e-6)
    np.testing.assert_array_equal(flat[11 * 7 :], 0)


def test_token_mode_is_the_plain_mean():
    episodes = [make_episode(1, num_control_steps=3), make_episode(3, member=1, num_control_steps=24)]
    weights, _ = columns(episodes, loss_aggregation="token")
    for weight, episode in zip(weights, episodes, strict=True):
        np.testing.assert_array_equal(weight, np.asarray(episode.get_extra_model_outputs(TOKEN_MASK), np.float32))
    assert sum(w.sum() for w in weights) == (3 + 24) * 7


@pytest.mark.parametrize("loss_aggregation", ["trajectory", "token"])
def test_rows_know_their_trajectory(loss_aggregation):
    episodes = [make_episode(n, member=i) for i, n in enumerate([2, 1, 3])]
    _, indices = columns(episodes, loss_aggregation=loss_aggregation)
    assert [i.tolist() for i in indices] == [[0, 0], [1], [2, 2, 2]]


def test_a_trajectory_without_valid_tokens_gives_zeros():
    weights, _ = columns([make_episode(1, num_control_steps=0)])
    np.testing.assert_array_equal(weights[0], 0)
