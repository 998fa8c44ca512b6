"""Normalised actions to action tokens and back: 256 uniform bins of [-1, 1] per dimension.

A token is a bin index k in 0..255 or, inside the vocabulary, the id ``first_action_id + k``. As in OpenVLA,
ids rise while actions fall: k = 0 is +1, k = 255 is -1, and k = 0 and k = 1 decode to the same largest
centre (256 ids, 255 bin centres).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.openvla_oft.configuration import NUM_ACTION_BINS


class ActionTokenizer:
    """Converter between normalised actions, bin indices and vocabulary ids.

    Args:
        first_action_id: Vocabulary id of bin index 0 (released: 31744).
    """

    def __init__(self, first_action_id: int) -> None:
        self.first_action_id = first_action_id
        self.bins = np.linspace(-1.0, 1.0, NUM_ACTION_BINS)
        self.bin_centers = (self.bins[:-1] + self.bins[1:]) / 2.0

    def encode(self, actions: ArrayLike) -> NDArray[np.int64]:
        """Bin indices of normalised actions of any shape; values outside [-1, 1] are clipped."""
        # Not cast to float64: a float32 value on a bin edge must fall on the side the reference puts it.
        clipped = np.clip(np.asarray(actions), -1.0, 1.0)
        return (NUM_ACTION_BINS - np.digitize(clipped, self.bins)).astype(np.int64)

    def decode(self, bins: ArrayLike) -> NDArray[np.float64]:
        """Normalised actions (bin centres, |a| <= 0.9961) of bin indices of any shape."""
        index = NUM_ACTION_BINS - 1 - np.asarray(bins, dtype=np.int64)
        return self.bin_centers[np.clip(index, 0, NUM_ACTION_BINS - 2)]

    def encode_ids(self, actions: ArrayLike) -> NDArray[np.int64]:
        """Vocabulary ids of normalised actions."""
        return self.bins_to_ids(self.encode(actions))

    def decode_ids(self, ids: ArrayLike) -> NDArray[np.float64]:
        """Normalised actions of vocabulary ids; ids outside the action range give the nearest action."""
        return self.decode(self.ids_to_bins(ids))

    def bins_to_ids(self, bins: ArrayLike) -> NDArray[np.int64]:
        """Bin index k to vocabulary id ``first_action_id + k``."""
        return np.asarray(bins, dtype=np.int64) + self.first_action_id

    def ids_to_bins(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Vocabulary id to bin index; not clipped."""
        return np.asarray(ids, dtype=np.int64) - self.first_action_id
