"""Training windows: from demonstrations to frames, prompts and action-bin labels.

A window is a timestep that still has a whole chunk of C actions left; the last C-1 timesteps of a demonstration
start none, and nothing is padded (spec section 7). Its label is the chunk that begins there.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policies.openvla_oft import OpenVLAOFTPolicy, compute_statistics, libero_gripper_from_env
from policies.openvla_oft.norm_stats import resolve_unnorm_key
from rllib_vla.sft.demonstrations import Demonstration, DemonstrationError
from rllib_vla.sft.demonstrations.demonstration import LIBERO_GRIPPER
from rllib_vla.sft.frames import num_windows, prepare_frames


def demonstration_statistics(demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
    """Statistics of the actions, in the policy's convention (LIBERO: gripper 1 = open), and of the proprioception.

    They have the released checkpoints' keys. As these, they count every control step, also those that start no window;
    a 0/1 gripper is left unnormalised (mask false), RoboTwin's continuous ones are normalised.
    """
    conventions = {d.gripper_convention for d in demonstrations}
    if len(conventions) > 1:
        raise DemonstrationError(f"demonstrations of different grippers ({conventions}) cannot share statistics")
    proprio = [d.proprio for d in demonstrations if d.proprio is not None]
    return compute_statistics(
        [policy_actions(d) for d in demonstrations],
        proprio if len(proprio) == len(demonstrations) else None,
        gripper_dims=(-1,) if conventions == {LIBERO_GRIPPER} else (),
    )


def policy_actions(demonstration: Demonstration) -> np.ndarray:
    """Actions ``[T, D] float64`` in the policy's convention, in physical units."""
    if demonstration.gripper_convention == LIBERO_GRIPPER:
        return libero_gripper_from_env(demonstration.actions)
    return np.asarray(demonstration.actions, dtype=np.float64)


class ChunkDataset:
    """All windows of some demonstrations, as uint8 frames and integer labels.

    Attributes:
        frames: Pictures at the policy's size, one per window, ``[N, S, S, 3] uint8``, in memory or memory-mapped.
        bins: Labels of each window, ``[N, C*D] int64``.
        proprio: Normalised proprioception of each window, ``[N, P] float32``; None if the policy does not use it.
        chain_crops: Whether the policy's image chain ends with a centre crop.

    Args:
        demonstrations: At least one; their frames may be None if `frames` is given.
        policy: Gives the chunk size, the statistics, the tokenizers and the image chain.
        augmented: The frames will be augmented: leave out the centre crop of the image chain.
        first_windows: How many windows at the start of each demonstration count as its first ones.
        first_window_repeats: How often an epoch shows those.
        frames: Pictures of all windows, see `rllib_vla.sft.frames`; None prepares them.

    Raises:
        DemonstrationError: No demonstration is as long as a chunk, the actions have another width, or the policy
            needs proprioception that a demonstration lacks.
        ValueError: The policy needs several images, which the demonstrations do not carry.
    """

    def __init__(
        self,
        demonstrations: Sequence[Demonstration],
        policy: OpenVLAOFTPolicy,
        *,
        augmented: bool,
        first_windows: int = 1,
        first_window_repeats: int = 1,
        frames: np.ndarray | None = None,
    ) -> None:
        config = policy.config
        if config.num_images > 1:
            raise ValueError(f"demonstrations are read with one camera; the policy has num_images={config.num_images}")
        chunk = config.chunk_size
        labels, prompt_of, proprio, firsts = [], [], [], []
        instructions = {text: i for i, text in enumerate(dict.fromkeys(d.instruction for d in demonstrations))}
        count = 0
        for demo in demonstrations:
            if demo.actions.shape[1] != config.action_dim:
                raise DemonstrationError(
                    f"{demo.source} has actions of {demo.actions.shape[1]} dimensions, the policy {config.action_dim}: "
                    "set `policy: {action_dim: …}`"
                )
            if config.use_proprio and demo.proprio is None:
                raise DemonstrationError(
                    f"{demo.source} has no proprioception, which the policy uses: set `policy: {{use_proprio: false}}`"
                )
            windows = num_windows(demo, chunk)
            firsts.append(count + np.arange(min(first_windows, windows)))
            labels.append(_windows(encode_actions(policy_actions(demo), policy), chunk))
            prompt_of.append(np.full(windows, instructions[demo.instruction]))
            if config.use_proprio:
                proprio.append(policy.processor.proprio_normalizer.normalize(demo.proprio[:windows]))
            count += windows
        if not count:
            raise DemonstrationError(f"No demonstration has {chunk} steps, the length of one action chunk")
        self.frames = prepare_frames(demonstrations, policy, augmented=augmented) if frames is None else frames
        if len(self.frames) != count:
            raise ValueError(f"{len(self.frames)} frames for {count} windows")
        self.bins = torch.from_numpy(np.concatenate(labels))
        self.proprio = torch.from_numpy(np.concatenate(proprio)).float() if config.use_proprio else None
        self.chain_crops = config.image_chain != "resize"
        repeated = firsts * (first_window_repeats - 1)
        self._epoch = np.concatenate([np.arange(count), *repeated])
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)
        self._prompt_of = torch.from_numpy(np.concatenate(prompt_of))
        self._instructions = list(instructions)
        self._statistics = policy.norm_stats[resolve_unnorm_key(policy.norm_stats, policy.unnorm_key)]
        padded = policy.processor.pad_prompts([policy.processor.prompt_ids(text) for text in instructions])
        self._input_ids = torch.from_numpy(padded["input_ids"])
        self._attention_mask = torch.from_numpy(padded["attention_mask"])

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.bins)

    @functools.cached_property
    def digest(self) -> str:
        """Digest of labels, proprioception, prompts and statistics; not of the pictures, which may be gigabytes."""
        text = json.dumps([self._instructions, _rounded(self._statistics)], sort_keys=True)
        digest = hashlib.sha256(text.encode())
        for tensor in (self.bins, self.proprio, self._prompt_of, self._input_ids, self._attention_mask):
            if tensor is not None:
                digest.update(tensor.numpy())
        return digest.hexdigest()

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The windows `indices` ``[B] int64``.

        Returns:
            ``images [B, n, S, S, 3] uint8``, ``input_ids [B, L] int64``, ``attention_mask [B, L] bool``, the
            labels ``bins [B, C*D] int64`` and, where the policy uses it, ``proprio [B, P] float32``.
        """
        prompts = self._prompt_of[indices]
        batch = {
            "images": torch.from_numpy(self.frames[indices.numpy()])[:, None],
            "input_ids": self._input_ids[prompts],
            "attention_mask": self._attention_mask[prompts],
            "bins": self.bins[indices],
        }
        return batch if self.proprio is None else batch | {"proprio": self.proprio[indices]}

    def batch_indices(self, batch_size: int, step: int, seed: int) -> torch.Tensor:
        """Windows of batch `step` (from 0), ``[batch_size] int64``.

        Batches walk through one endless sequence of shuffled epochs, so every window is used equally often (a first
        one `first_window_repeats` times as often) and every batch is full. The result depends on the arguments only.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, places = np.divmod(positions, len(self._epoch))
        pairs = zip(epochs.tolist(), places.tolist(), strict=True)
        return torch.from_numpy(np.array([self._order(seed, epoch)[place] for epoch, place in pairs]))

    def _shuffled(self, seed: int, epoch: int) -> np.ndarray:
        """Windows of an epoch in their order."""
        return np.random.default_rng([seed, epoch]).permutation(self._epoch)


def encode_actions(actions: np.ndarray, policy: OpenVLAOFTPolicy) -> np.ndarray:
    """Actions in the policy's convention ``[T, D]`` to bin indices ``[T, D] int64``.

    Dimensions with a true mask map [q01, q99] (RoboTwin: [min, max]) to [-1, 1], clipped; constant ones become 0. A
    0/1 gripper passes as it is.
    """
    normalized = policy.action_normalizer.normalize(actions)
    # The reference normalises in float32, in which the largest action is exactly 1 and so the first bin.
    return policy.action_tokenizer.encode(normalized.astype(np.float32))


def _rounded(value: Any) -> Any:
    """(Nested) statistics to nine digits: other processors sum in another order."""
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _windows(bins: np.ndarray, chunk: int) -> np.ndarray:
    """``[T, D]`` to all full chunks ``[max(0, T - chunk + 1), chunk * D]``, step-major."""
    if len(bins) < chunk:
        return np.empty((0, chunk * bins.shape[1]), dtype=np.int64)
    # sliding_window_view puts the window last: [N, D, C].
    windows = np.lib.stride_tricks.sliding_window_view(bins, chunk, axis=0)
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)
