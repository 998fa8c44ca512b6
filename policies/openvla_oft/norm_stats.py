"""Statistics of a data set, and the maps between normalised and physical units that they define.

The statistics have the released layout ``{key: {"action": {mean, std, min, max, q01, q99, mask}, "proprio":
{...}, "num_transitions", "num_trajectories"}}``. Policies act in [-1, 1]; LIBERO checkpoints map that to
q01..q99, ALOHA/RoboTwin ones to min..max. All arithmetic is float64.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from policies.openvla_oft.configuration import NORMALIZATIONS

EPS = 1e-8  # the reference adds it to every range
_LIMITS = {"q99": ("q01", "q99"), "bounds": ("min", "max")}
_TASK_PREFIXES = ("robotwin2_", "robotwin_")


class Normalizer:
    """Affine map between physical units and [-1, 1], per dimension.

    Args:
        stats: One entry of the statistics (``"action"`` or ``"proprio"``).
        normalization: ``"q99"`` or ``"bounds"``.

    Raises:
        ValueError: The statistics lack the limits.
    """

    def __init__(self, stats: dict[str, Any], normalization: str) -> None:
        if normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, not {normalization!r}")
        low, high = _LIMITS[normalization]
        missing = [name for name in (low, high) if name not in stats]
        if missing:
            raise ValueError(f"statistics lack {', '.join(missing)}, which {normalization!r} normalisation needs")
        self.low = np.asarray(stats[low], dtype=np.float64)
        self.high = np.asarray(stats[high], dtype=np.float64)
        self.mask = np.asarray(stats.get("mask", np.ones_like(self.low)), dtype=bool)
        if not self.low.shape == self.high.shape == self.mask.shape:
            raise ValueError(f"statistics {low}, {high} and mask differ in length")

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.low.shape[0]

    def normalize(self, values: ArrayLike) -> NDArray[np.float64]:
        """``[..., dim]`` physical to normalised, clipped to [-1, 1]; constant dimensions give 0.

        Dimensions with a false mask (a 0/1 gripper) pass unchanged.
        """
        values = self._checked(values)
        scaled = 2.0 * (values - self.low) / (self.high - self.low + EPS) - 1.0
        scaled = np.where(self.low == self.high, 0.0, np.clip(scaled, -1.0, 1.0))
        return np.where(self.mask, scaled, values)

    def unnormalize(self, values: ArrayLike) -> NDArray[np.float64]:
        """``[..., dim]`` normalised to physical; dimensions with a false mask pass unchanged."""
        values = self._checked(values)
        return np.where(self.mask, 0.5 * (values + 1.0) * (self.high - self.low + EPS) + self.low, values)

    def _checked(self, values: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(values, dtype=np.float64)
        if values.shape[-1:] != self.low.shape:
            raise ValueError(f"expected [..., {self.dim}], got shape {values.shape}")
        return values


class ProprioNormalizer(Normalizer):
    """As `Normalizer`, for proprioception, where the reference gives -1 in constant dimensions and clips all."""

    def normalize(self, values: ArrayLike) -> NDArray[np.float64]:
        """``[..., dim]`` physical to normalised, clipped to [-1, 1] even where the mask is false."""
        values = self._checked(values)
        scaled = 2.0 * (values - self.low) / (self.high - self.low + EPS) - 1.0
        return np.clip(np.where(self.mask, scaled, values), -1.0, 1.0)


def resolve_unnorm_key(norm_stats: dict[str, Any], key: str | None) -> str:
    """The entry of `norm_stats` that `key` means.

    Tries the key itself, the key with or without ``_no_noops`` (LIBERO), and the key without RoboTwin's prefix;
    without a key there must be exactly one entry.

    Raises:
        ValueError: No such entry, or none named where there are several; lists what there is.
    """
    available = ", ".join(sorted(norm_stats))
    if key is None:
        if len(norm_stats) == 1:
            return next(iter(norm_stats))
        raise ValueError(f"the checkpoint has statistics of several data sets: pass unnorm_key, one of: {available}")
    bare = next((key.removeprefix(p) for p in _TASK_PREFIXES if key.startswith(p)), key)
    for candidate in (key, f"{key}_no_noops", key.removesuffix("_no_noops"), bare):
        if candidate in norm_stats:
            return candidate
    close = difflib.get_close_matches(key, norm_stats, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"no statistics for unnorm_key {key!r}; {hint}Available: {available}")


def compute_statistics(
    actions: Sequence[NDArray[Any]],
    proprio: Sequence[NDArray[Any]] | None = None,
    *,
    gripper_dims: Sequence[int] = (-1,),
) -> dict[str, Any]:
    """Statistics of demonstrations in the released layout.

    Args:
        actions: One ``[T, D]`` array per trajectory, in the units that the policy should output. For LIBERO
            the gripper is 0 (close) .. 1 (open), see `libero_gripper_from_env`.
        proprio: One ``[T, P]`` array per trajectory.
        gripper_dims: Action dimensions that are left unnormalised (mask false).

    Raises:
        ValueError: No trajectories, or values that are not finite.
    """
    stats: dict[str, Any] = {"action": _describe(actions, "actions")}
    mask = np.ones(len(stats["action"]["mean"]), dtype=bool)
    mask[list(gripper_dims)] = False
    stats["action"]["mask"] = mask.tolist()
    if proprio is not None:
        stats["proprio"] = _describe(proprio, "proprio")
    stats["num_transitions"] = sum(len(trajectory) for trajectory in actions)
    stats["num_trajectories"] = len(actions)
    return stats


def _describe(trajectories: Sequence[ArrayLike], name: str) -> dict[str, list[float]]:
    if len(trajectories) == 0:
        raise ValueError(f"{name}: no trajectories to take statistics of")
    steps = np.concatenate([np.asarray(t, dtype=np.float64) for t in trajectories])
    if not np.isfinite(steps).all():
        raise ValueError(f"{name}: statistics of values that are not finite")
    return {
        "mean": steps.mean(axis=0).tolist(),
        "std": steps.std(axis=0).tolist(),
        "max": steps.max(axis=0).tolist(),
        "min": steps.min(axis=0).tolist(),
        "q01": np.quantile(steps, 0.01, axis=0).tolist(),
        "q99": np.quantile(steps, 0.99, axis=0).tolist(),
    }


def libero_gripper_to_env(actions: ArrayLike) -> NDArray[np.float64]:
    """Policy to LIBERO's convention: gripper g in 0 (close) .. 1 (open) becomes -sign(2g - 1), -1 = open."""
    actions = np.array(actions, dtype=np.float64)
    actions[..., -1] = -np.sign(2.0 * actions[..., -1] - 1.0)
    return actions


def libero_gripper_from_env(actions: ArrayLike) -> NDArray[np.float64]:
    """LIBERO's to the policy's convention: gripper -1 (open) or +1 (close) becomes 1 or 0.

    As in the released data, 1 - clip(g, 0, 1): every command of 0 or less is open.
    """
    actions = np.array(actions, dtype=np.float64)
    actions[..., -1] = 1.0 - np.clip(actions[..., -1], 0.0, 1.0)
    return actions
