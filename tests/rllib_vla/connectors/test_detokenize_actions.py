from types import SimpleNamespace

import numpy as np
import pytest
from ray.rllib.core.columns import Columns

from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.connectors.module_to_env.detokenize_actions import DetokenizeActions
from tests.rllib_vla.toy import make_episode


@pytest.fixture(scope="module")
def policy(toy_policy_dir):
    return OpenVLAOFTPolicy.from_pretrained(toy_policy_dir)


def run(policy, tokens: list[np.ndarray], **kwargs):
    episodes = [make_episode(1, member=i) for i in range(len(tokens))]
    batch = {Columns.ACTIONS: {(e.id_,): [t] for e, t in zip(episodes, tokens, strict=True)}}
    out = DetokenizeActions(**kwargs)(rl_module=SimpleNamespace(policy=policy), batch=batch, episodes=episodes)
    return [items[0] for items in out[Columns.ACTIONS_FOR_ENV].values()], out


def test_agrees_with_the_reference_table(policy, reference_fixtures):
    """All 256 tokens, un-normalised with the q01..q99 formula written out here."""
    table = np.load(reference_fixtures / "action_tokens.npz")["decoded_actions"]
    stats = policy.norm_stats["toy"]["action"]
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    tokens = np.arange(5 * 56).reshape(5, 8, 7) % 256
    chunks, _ = run(policy, list(tokens.reshape(5, 56)), libero_gripper=False)
    normalized = table[tokens]
    expected = 0.5 * (normalized + 1) * (high - low + 1e-8) + low
    expected[..., 6] = normalized[..., 6]  # the gripper is not un-normalised
    for chunk, values in zip(chunks, expected, strict=True):
        assert chunk.shape == (8, 7)
        assert chunk.dtype == np.float32
        np.testing.assert_allclose(chunk, values, rtol=1e-6, atol=1e-7)


def test_libero_gripper(policy):
    """Bins 0..64 open (-1), the other 191 close (+1)."""
    tokens = np.zeros((32, 8, 7), int)
    tokens[..., 6] = np.arange(256).reshape(32, 8)
    chunks, _ = run(policy, list(tokens.reshape(32, 56)), libero_gripper=True)
    gripper = np.concatenate([chunk[:, 6] for chunk in chunks])
    np.testing.assert_array_equal(gripper, [-1.0] * 65 + [1.0] * 191)


def test_gripper_rule_leaves_other_dimensions_alone(policy):
    tokens = [np.random.default_rng(0).integers(0, 256, 56)]
    (with_rule,), _ = run(policy, tokens, libero_gripper=True)
    (without,), _ = run(policy, tokens, libero_gripper=False)
    np.testing.assert_array_equal(with_rule[:, :6], without[:, :6])
    assert not np.array_equal(with_rule[:, 6], without[:, 6])


def test_first_token_is_dimension_0_of_the_first_control_step(policy):
    base = np.full(56, 128)
    for position in (0, 6, 7, 55):
        changed = base.copy()
        changed[position] = 5
        (a, b), _ = run(policy, [base, changed], libero_gripper=False)
        assert np.argwhere(a != b).tolist() == [[position // 7, position % 7]]


def test_tokens_stay_for_the_learner(policy):
    tokens = np.arange(56)
    _, batch = run(policy, [tokens])
    np.testing.assert_array_equal(next(iter(batch[Columns.ACTIONS].values()))[0], tokens)
