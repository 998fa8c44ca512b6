"""Normalisation against recorded values, and the statistics computed from demonstrations."""

from __future__ import annotations

import json

import numpy as np
import pytest

from policies.openvla_oft import (
    Normalizer,
    compute_statistics,
    libero_gripper_from_env,
    libero_gripper_to_env,
)
from policies.openvla_oft.norm_stats import ProprioNormalizer, resolve_unnorm_key

CASES = [("libero", "q99"), ("robotwin", "bounds")]


@pytest.mark.parametrize(("suite", "normalization"), CASES)
def test_recorded_values(recorded, suite, normalization):
    arrays = recorded.arrays("unnormalize")
    stats = json.loads((recorded.root / f"{suite}_bf16" / "dataset_statistics.json").read_text())
    for key, entry in stats.items():
        prefix = f"{suite}__{key}__"
        actions = Normalizer(entry["action"], normalization).unnormalize(arrays[prefix + "normalized"])
        np.testing.assert_allclose(actions, arrays[f"{prefix}actions_{normalization}"], atol=1e-9)
        proprio = ProprioNormalizer(entry["proprio"], normalization).normalize(arrays[prefix + "proprio_raw"])
        np.testing.assert_allclose(proprio, arrays[f"{prefix}proprio_{normalization}"], atol=1e-9)


def test_recorded_gripper(recorded):
    arrays = recorded.arrays("action_tokens")
    np.testing.assert_array_equal(libero_gripper_to_env(arrays["gripper_in"]), arrays["gripper_env"])


def test_gripper_conventions_are_inverse():
    # Spec section 7: 1 - clip(g, 0, 1).
    assert libero_gripper_from_env([[-1.0], [-0.4], [0.0], [0.25], [1.0]])[:, 0].tolist() == [1, 1, 1, 0.75, 0]
    env = np.array([[0.1, -1.0], [0.2, 1.0]])
    policy = libero_gripper_from_env(env)
    np.testing.assert_array_equal(policy[:, -1], [1.0, 0.0])
    np.testing.assert_array_equal(libero_gripper_to_env(policy), env)


@pytest.fixture
def demonstrations():
    rng = np.random.default_rng(0)
    actions = [rng.normal(size=(t, 7)) * np.arange(1, 8) for t in (30, 50)]
    for trajectory in actions:
        trajectory[:, 2] = 0.25
        trajectory[:, 6] = trajectory[:, 6] > 0
    return actions


def test_statistics(demonstrations):
    stats = compute_statistics(demonstrations, [a[:, :3] for a in demonstrations])
    steps = np.concatenate(demonstrations)
    assert stats["num_transitions"] == 80
    assert stats["num_trajectories"] == 2
    assert stats["action"]["mask"] == [True] * 6 + [False]
    assert set(stats["action"]) == {"mean", "std", "min", "max", "q01", "q99", "mask"}
    assert set(stats["proprio"]) == {"mean", "std", "min", "max", "q01", "q99"}
    np.testing.assert_allclose(stats["action"]["q01"], np.percentile(steps, 1, axis=0))
    np.testing.assert_allclose(stats["action"]["max"], steps.max(axis=0))
    assert json.loads(json.dumps(stats)) == stats


@pytest.mark.parametrize("normalization", ["q99", "bounds"])
def test_actions_survive_a_round_trip(demonstrations, normalization):
    normalizer = Normalizer(compute_statistics(demonstrations)["action"], normalization)
    steps = np.concatenate(demonstrations)
    inside = np.clip(steps, normalizer.low, normalizer.high)
    normalized = normalizer.normalize(inside)
    assert np.abs(normalized).max() <= 1
    np.testing.assert_array_equal(normalized[:, 2], 0)  # a constant dimension carries no action
    np.testing.assert_array_equal(normalized[:, 6], steps[:, 6])  # the gripper is left alone
    np.testing.assert_allclose(normalizer.unnormalize(normalized), inside, atol=1e-7)


def test_bad_statistics_are_refused(demonstrations):
    with pytest.raises(ValueError, match="no trajectories"):
        compute_statistics([])
    with pytest.raises(ValueError, match="not finite"):
        compute_statistics([np.full((3, 7), np.nan)])
    with pytest.raises(ValueError, match="q01"):
        Normalizer({"mean": [0.0]}, "q99")
    with pytest.raises(ValueError, match="expected"):
        Normalizer(compute_statistics(demonstrations)["action"], "q99").normalize(np.zeros((4, 6)))


def test_states_are_clipped_even_where_the_mask_is_false():
    """As the reference does; actions are left alone there."""
    stats = {"min": [0.0, 0.0], "max": [4.0, 4.0], "mask": [True, False]}
    normalized = ProprioNormalizer(stats, "bounds").normalize([[9.0, 9.0], [1.0, 0.25]])
    np.testing.assert_allclose(normalized, [[1.0, 1.0], [-0.5, 0.25]])
    np.testing.assert_allclose(Normalizer(stats, "bounds").unnormalize([[-0.5, 9.0]]), [[1.0, 9.0]])


def test_units_by_hand():
    """0.5 (a + 1) (hi - lo + 1e-8) + lo where the mask is true, in float64; spec section 3.7."""
    stats = {"q01": [2.0, 2.0, 0.0], "q99": [2.0, 2.0 + 1e-6, 1.0], "mask": [True, True, False]}
    physical = Normalizer(stats, "q99").unnormalize([[1.0, 0.0, -0.25]])[0] - [2.0, 2.0, 0.0]
    np.testing.assert_allclose(physical, [1e-8, 0.505e-6, -0.25], rtol=1e-6)
    # clip(2 (x - min) / (max - min + 1e-8) - 1, -1, 1); spec section 2.6.
    state = ProprioNormalizer({"min": [0.0, 0.0], "max": [1e-8, 2.0]}, "bounds").normalize([[1e-8, 3.0]])
    np.testing.assert_allclose(state, [[0.0, 1.0]], atol=1e-12)


def test_without_a_mask_every_dimension_is_scaled():
    stats = {"q01": [0.0, -1.0], "q99": [4.0, 3.0]}
    np.testing.assert_allclose(Normalizer(stats, "q99").unnormalize([[1.0, -1.0]]), [[4.0, -1.0]])


def test_unnorm_key():
    stats = {"libero_10_no_noops": {}, "lift_pot_1k": {}}
    assert resolve_unnorm_key(stats, "libero_10") == "libero_10_no_noops"
    assert resolve_unnorm_key(stats, "libero_10_no_noops") == "libero_10_no_noops"
    assert resolve_unnorm_key({"libero_10": {}}, "libero_10_no_noops") == "libero_10"
    assert resolve_unnorm_key({"libero_10": {}, "libero_10_no_noops": {}}, "libero_10") == "libero_10"
    assert resolve_unnorm_key(stats, "robotwin2_lift_pot_1k") == "lift_pot_1k"
    assert resolve_unnorm_key({"only": {}}, None) == "only"
    with pytest.raises(ValueError, match="did you mean 'libero_10_no_noops'"):
        resolve_unnorm_key(stats, "libero_10_noops")
    with pytest.raises(ValueError, match="pass unnorm_key"):
        resolve_unnorm_key(stats, None)
