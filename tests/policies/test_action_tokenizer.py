"""Token arithmetic against recorded values and by its definition."""

from __future__ import annotations

import numpy as np

from policies.openvla_oft import ActionTokenizer


def test_recorded_tokens(recorded):
    arrays = recorded.arrays("action_tokens")
    tokenizer = ActionTokenizer(31744)
    np.testing.assert_array_equal(tokenizer.encode_ids(arrays["actions"]), arrays["token_ids"])
    np.testing.assert_array_equal(tokenizer.encode_ids(arrays["actions_f32"]), arrays["token_ids_from_f32"])
    decoded = tokenizer.decode_ids(arrays["all_action_token_ids"])
    np.testing.assert_array_equal(decoded, arrays["decoded_actions"])
    np.testing.assert_array_equal(tokenizer.decode_ids(arrays["wide_token_ids"]), arrays["wide_decoded_actions"])
    np.testing.assert_array_equal(tokenizer.bins, arrays["bins"])
    np.testing.assert_array_equal(tokenizer.bin_centers, arrays["bin_centers"])


def test_landmarks_of_the_released_vocabulary():
    tokenizer = ActionTokenizer(31744)
    np.testing.assert_array_equal(tokenizer.encode_ids([-1, 0, 0.5, 1]), [31999, 31872, 31808, 31744])
    np.testing.assert_array_equal(tokenizer.encode([-7.0, 7.0]), [255, 0])
    assert tokenizer.decode(0) == tokenizer.decode(1) == 254 / 255
    assert tokenizer.decode(255) == -254 / 255


def test_the_whole_table():
    """Spec section 3.7: d = 32000 - id, bin centre [clip(d - 1, 0, 254)] of 256 edges from -1 to 1."""
    ids = np.arange(31744, 32000)
    centres = -1 + (2 * np.arange(255) + 1) / 255
    expected = [centres[min(32000 - i - 1, 254)] for i in ids]
    np.testing.assert_allclose(ActionTokenizer(31744).decode_ids(ids), expected, rtol=0, atol=1e-15)


def test_bins_survive_a_round_trip():
    tokenizer = ActionTokenizer(768)
    bins = np.arange(1, 256)
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.decode(bins)), bins)
    np.testing.assert_array_equal(tokenizer.ids_to_bins(tokenizer.bins_to_ids(bins)), bins)


def test_quantisation_error_is_half_a_bin():
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 8, 7))
    tokenizer = ActionTokenizer(768)
    decoded = tokenizer.decode(tokenizer.encode(actions))
    assert decoded.shape == actions.shape
    assert np.abs(decoded - actions).max() <= 1 / 255 + 1e-12
