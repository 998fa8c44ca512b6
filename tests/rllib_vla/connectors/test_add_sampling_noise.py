from types import SimpleNamespace

import numpy as np

from rllib_vla.columns import SAMPLING_UNIFORMS
from rllib_vla.connectors.env_to_module.add_sampling_noise import AddSamplingNoise, sampling_uniforms
from tests.rllib_vla.toy import make_episode

MODULE = SimpleNamespace(policy=SimpleNamespace(config=SimpleNamespace(num_action_tokens=56)))


def draw(seed=0, group_id=0, member=0, call=0, num_tokens=56):
    return sampling_uniforms(seed=seed, group_id=group_id, member=member, call=call, num_tokens=num_tokens)


def test_golden_values():
    """A run can be replayed with a later version only if these never change."""
    np.testing.assert_allclose(draw(num_tokens=4), [0.03474188, 0.01154673, 0.6119502, 0.2415492], rtol=1e-6)
    np.testing.assert_allclose(draw(7, 3, 2, 1, num_tokens=4), [0.3670838, 0.6713649, 0.37427068, 0.6364477], rtol=1e-6)


def test_range_and_type():
    values = draw(num_tokens=100_000)
    assert values.dtype == np.float32
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * len(values))


def test_every_argument_changes_everything():
    base = draw()
    for changed in (draw(seed=1), draw(group_id=1), draw(member=1), draw(call=1)):
        assert not np.isin(changed, base).any()


def test_neighbouring_streams_do_not_overlap():
    """A counter-based generator counts up; the next group, member or call must not continue this one's stream."""
    streams = {
        (g, m, c): draw(group_id=g, member=m, call=c, num_tokens=350)
        for g in range(6)
        for m in range(3)
        for c in range(3)
    }
    values = np.concatenate(list(streams.values()))
    # float32 uniforms have 2^24 values: chance coincidences are about n^2 / 2^25, overlaps would be thousands.
    num_repeated = len(values) - len(np.unique(values))
    assert num_repeated < 4 * len(values) ** 2 / 2**25


def noise_of(episodes, explore=True):
    batch = AddSamplingNoise()(rl_module=MODULE, batch={}, episodes=episodes, explore=explore)
    return [items[0] for items in batch.get(SAMPLING_UNIFORMS, {}).values()]


def test_batch_composition_does_not_matter():
    episodes = [make_episode(calls, group_id=g, member=calls) for g, calls in [(0, 1), (4, 2), (2, 3)]]
    together = noise_of(episodes)
    backwards = noise_of(episodes[::-1])[::-1]
    for episode, a, b in zip(episodes, together, backwards, strict=True):
        data = episode.custom_data
        expected = draw(data["seed"], data["group_id"], data["member"], call=len(episode))
        np.testing.assert_array_equal(a, expected)
        np.testing.assert_array_equal(b, expected)


def test_greedy_decoding_needs_none():
    assert noise_of([make_episode(1)], explore=False) == []
