"""The configuration of a checkpoint directory, and what a released one leaves unsaid.

Tower sizes are read off the tensor shapes, the action space off the statistics. No environment variable matters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies.openvla_oft import checkpoint, weights
from policies.openvla_oft.checkpoint import CheckpointError, statistics_dim
from policies.openvla_oft.configuration import (
    AUTOREGRESSIVE,
    DINOV2_LARGE,
    OWN_KEY,
    SIGLIP_SO400M,
    OpenVLAOFTConfig,
    VisionTowerConfig,
)
from policies.openvla_oft.norm_stats import resolve_unnorm_key

# ALOHA/RoboTwin: 14 joint values, 25 steps, min..max statistics. All other released checkpoints: LIBERO's
# constants.
_ALOHA = {
    "action_dim": 14,
    "chunk_size": 25,
    "action_normalization": "bounds",
    "image_chain": "robotwin",
    "proprio_dim": 14,
}
_LIBERO = {
    "action_dim": 7,
    "chunk_size": 8,
    "action_normalization": "q99",
    "image_chain": "libero",
    "proprio_dim": 8,
}


def read_config(path: str | Path, unnorm_key: str | None = None, **overrides: Any) -> OpenVLAOFTConfig:
    """The configuration that `load` would use, without reading any weights; `overrides` as there.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: As `load`.
    """
    return config_and_statistics(checkpoint.resolve(path), unnorm_key, **overrides)[0]


def config_and_statistics(
    directory: Path,
    unnorm_key: str | None,
    *,
    num_images: int | None = None,
    use_proprio: bool | None = None,
    added_statistics: dict[str, Any] | None = None,
    decoding: str | None = None,
    **overrides: Any,
) -> tuple[OpenVLAOFTConfig, dict[str, Any]]:
    """Configuration (with the statistics' key in it) and statistics of a checkpoint; see `OpenVLAOFTPolicy`.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: As `load`.
    """
    checkpoint.refuse_unusable(directory)
    raw = checkpoint.read_json(directory / "config.json")
    stats = checkpoint.read_statistics(directory, raw, added_statistics)
    key = _choose_key(directory, raw, stats, unnorm_key)
    values: dict[str, Any] = {}
    if OWN_KEY not in raw:
        values |= _released_action_space(stats, key)
        if decoding == AUTOREGRESSIVE:
            values["chunk_size"] = 1
        if use_proprio is None:
            use_proprio = raw.get("use_proprio")
        if use_proprio is None:
            use_proprio = weights.has_proprio_weights(directory)
    if decoding is not None:
        values["decoding"] = decoding
    if num_images is not None:
        values["num_images"] = num_images
    if use_proprio is not None:
        values["use_proprio"] = use_proprio
    return config_of(directory, **(values | {"unnorm_key": key} | overrides)), stats


def _choose_key(directory: Path, raw: Mapping[str, Any], stats: dict[str, Any], unnorm_key: str | None) -> str | None:
    """The statistics to use; None if the choice can be left open."""
    own = raw.get(OWN_KEY, {})
    chosen = unnorm_key or own.get("unnorm_key")
    has_file = (directory / checkpoint.STATISTICS).is_file()
    if chosen is None and has_file and len(stats) > 1:
        return None
    try:
        return resolve_unnorm_key(stats, chosen)
    except ValueError as error:
        remedy = "" if has_file else f". config.json holds only pre-training statistics. {checkpoint.STATISTICS_REMEDY}"
        raise CheckpointError(f"{directory}: {error}{remedy}") from error


def _released_action_space(stats: dict[str, Any], key: str | None) -> dict[str, Any]:
    """Constants that a released checkpoint implies by the width of its statistics."""
    keys = [key] if key else sorted(stats)
    dims = {statistics_dim(stats[k]["action"]) for k in keys}
    if len(dims) > 1:
        raise CheckpointError(
            f"the statistics are of actions of different widths {sorted(dims)}: pass unnorm_key, one of: "
            + ", ".join(keys)
        )
    (dim,) = dims
    values = dict(_ALOHA) if dim == _ALOHA["action_dim"] else _LIBERO | {"action_dim": dim}
    if proprio_dim := statistics_dim(stats[keys[0]].get("proprio", {})):
        values["proprio_dim"] = proprio_dim
    return values


def config_of(directory: Path, **overrides: Any) -> OpenVLAOFTConfig:
    """The configuration of a checkpoint directory, vision sizes inferred where it does not say them."""
    raw = checkpoint.read_json(directory / "config.json")
    towers = {} if OWN_KEY in raw else _vision_towers(directory)
    return OpenVLAOFTConfig.from_dict(raw, **(towers | overrides))


def _vision_towers(directory: Path) -> dict[str, VisionTowerConfig]:
    """The vision towers' sizes by field of `OpenVLAOFTConfig`, read off the tensor shapes.

    Both released towers have 16 heads, so every size follows. A directory without weights (metadata only) is
    taken to have the released sizes.
    """
    try:
        shapes = weights.stored_shapes(directory)
    except CheckpointError:
        return {}
    prefix = "vision_backbone."
    towers = {
        "featurizer": _tower(shapes, prefix + "featurizer.", DINOV2_LARGE),
        "fused_featurizer": _tower(shapes, prefix + "fused_featurizer.", SIGLIP_SO400M),
    }
    return {key: tower for key, tower in towers.items() if tower is not None}


def _tower(shapes: weights.Shapes, prefix: str, like: VisionTowerConfig) -> VisionTowerConfig | None:
    keys = [key.removeprefix(prefix) for key in shapes if key.startswith(prefix)]
    blocks = {int(match.group(1)) for key in keys if (match := re.match(r"blocks\.(\d+)\.", key))}
    try:
        dim = shapes[prefix + "pos_embed"][-1]
        mlp_dim = shapes[prefix + "blocks.0.mlp.fc1.bias"][0]
    except KeyError:
        return None  # the strict key comparison will list what is missing
    prefix_tokens = 1 + shapes[prefix + "reg_token"][1] if "reg_token" in keys else 0
    return VisionTowerConfig(
        embed_dim=dim,
        depth=len(blocks),
        num_heads=like.num_heads,
        mlp_dim=mlp_dim,
        num_prefix_tokens=prefix_tokens,
        layer_scale="blocks.0.ls1.scale_factor" in keys,
        attention_pool="attn_pool.latent" in keys,
    )
