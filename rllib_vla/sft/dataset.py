"""Training windows: from demonstrations to frames, prompts and action-bin labels.

A window is a timestep that still has a whole chunk of C actions left; the last C-1 timesteps of a demonstration
start none, and nothing is padded (spec section 7). Its label is the chunk that begins there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policies.openvla_oft import OpenVLAOFTPolicy, compute_statistics, libero_gripper_from_env
from policies.openvla_oft.image_chain import bicubic_resize, jpeg_round_trip, lanczos_resize
from rllib_vla.sft.demonstrations import Demonstration, DemonstrationError

# The image chains without their closing centre crop, in whose place augmentation takes a random one.
_UNCROPPED = {
    "libero": lambda frame, size: lanczos_resize(jpeg_round_trip(frame), size),
    "robotwin": bicubic_resize,
    "resize": bicubic_resize,
}


def demonstration_statistics(demonstrations: Sequence[Demonstration]) -> dict[str, Any]:
    """Statistics of the actions, in the policy's convention (gripper 1 = open), and of the proprioception."""
    proprio = [d.proprio for d in demonstrations if d.proprio is not None]
    return compute_statistics(
        [libero_gripper_from_env(d.actions) for d in demonstrations],
        proprio if len(proprio) == len(demonstrations) else None,
    )


class ChunkDataset:
    """All windows of some demonstrations, in memory as uint8 frames and integer labels.

    Attributes:
        frames: Pictures at the policy's size, one per control step, ``[F, n, S, S, 3] uint8``.
        bins: Labels of each window, ``[N, C*D] int64``.
        proprio: Normalised proprioception per frame, ``[F, P] float32``; None if the policy does not use it.
        chain_crops: Whether the policy's image chain ends with a centre crop.

    Args:
        demonstrations: At least one.
        policy: Gives the chunk size, the statistics, the tokenizers and the image chain.
        augmented: The frames will be augmented: leave out the centre crop of the image chain.
        first_windows: How many windows at the start of each demonstration count as its first ones.
        first_window_repeats: How often an epoch shows those.

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
    ) -> None:
        config = policy.config
        if config.num_images > 1:
            raise ValueError(f"demonstrations are read with one camera; the policy has num_images={config.num_images}")
        chunk = config.chunk_size
        frames, starts, labels, prompt_of, proprio, firsts = [], [], [], [], [], []
        instructions = list(dict.fromkeys(d.instruction for d in demonstrations))
        num_frames = 0
        for demo in demonstrations:
            if demo.actions.shape[1] != config.action_dim:
                raise DemonstrationError(
                    f"{demo.source} has actions of {demo.actions.shape[1]} dimensions, the policy {config.action_dim}"
                )
            if config.use_proprio and demo.proprio is None:
                raise DemonstrationError(f"{demo.source} has no proprioception, which the policy uses")
            num_windows = max(0, len(demo) - chunk + 1)
            # Only frames at which a window starts are ever shown to the policy.
            frames += [_picture(frame, policy, augmented) for frame in demo.frames[:num_windows]]
            starts.append(num_frames + np.arange(num_windows))
            firsts.append(num_frames + np.arange(min(first_windows, num_windows)))
            labels.append(_windows(encode_actions(demo.actions, policy), chunk))
            prompt_of.append(np.full(num_windows, instructions.index(demo.instruction)))
            if config.use_proprio:
                proprio.append(policy.processor.proprio_normalizer.normalize(demo.proprio[:num_windows]))
            num_frames += num_windows
        if not frames:
            raise DemonstrationError(f"No demonstration has {chunk} steps, the length of one action chunk")
        self.frames = torch.from_numpy(np.stack(frames))[:, None]
        self.bins = torch.from_numpy(np.concatenate(labels))
        self.proprio = torch.from_numpy(np.concatenate(proprio)).float() if config.use_proprio else None
        self.chain_crops = config.image_chain != "resize"
        self._frame_of = torch.from_numpy(np.concatenate(starts))
        # Every window has its own frame, so the two are numbered alike.
        repeated = firsts * (first_window_repeats - 1)
        self._epoch = np.concatenate([np.arange(len(self.bins)), *repeated])
        self._prompt_of = torch.from_numpy(np.concatenate(prompt_of))
        padded = policy.processor.pad_prompts([policy.processor.prompt_ids(text) for text in instructions])
        self._input_ids = torch.from_numpy(padded["input_ids"])
        self._attention_mask = torch.from_numpy(padded["attention_mask"])

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.bins)

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The windows `indices` ``[B] int64``.

        Returns:
            ``images [B, n, S, S, 3] uint8``, ``input_ids [B, L] int64``, ``attention_mask [B, L] bool``, the
            labels ``bins [B, C*D] int64`` and, where the policy uses it, ``proprio [B, P] float32``.
        """
        prompts, frames = self._prompt_of[indices], self._frame_of[indices]
        batch = {
            "images": self.frames[frames],
            "input_ids": self._input_ids[prompts],
            "attention_mask": self._attention_mask[prompts],
            "bins": self.bins[indices],
        }
        return batch if self.proprio is None else batch | {"proprio": self.proprio[frames]}

    def batch_indices(self, batch_size: int, step: int, seed: int) -> torch.Tensor:
        """Windows of batch `step` (from 0), ``[batch_size] int64``.

        Batches walk through one endless sequence of shuffled epochs, so every window is used equally often (a first
        one `first_window_repeats` times as often) and every batch is full. The result depends on the arguments only.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, places = np.divmod(positions, len(self._epoch))
        order = {e: np.random.default_rng([seed, e]).permutation(self._epoch) for e in np.unique(epochs)}
        return torch.from_numpy(np.array([order[e][p] for e, p in zip(epochs, places, strict=True)]))


def encode_actions(actions: np.ndarray, policy: OpenVLAOFTPolicy) -> np.ndarray:
    """Actions in LIBERO's convention ``[T, D]`` to bin indices ``[T, D] int64``.

    The gripper becomes 1 - clip(g, 0, 1) of its command (1 = open) and is not normalised; the other dimensions
    map [q01, q99] to [-1, 1], clipped; constant ones become 0.
    """
    normalized = policy.action_normalizer.normalize(libero_gripper_from_env(actions))
    # The reference normalises in float32, in which the largest action is exactly 1 and so the first bin.
    return policy.action_tokenizer.encode(normalized.astype(np.float32))


def _windows(bins: np.ndarray, chunk: int) -> np.ndarray:
    """``[T, D]`` to all full chunks ``[max(0, T - chunk + 1), chunk * D]``, step-major."""
    if len(bins) < chunk:
        return np.empty((0, chunk * bins.shape[1]), dtype=np.int64)
    # sliding_window_view puts the window last: [N, D, C].
    windows = np.lib.stride_tricks.sliding_window_view(bins, chunk, axis=0)
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)


def _picture(frame: np.ndarray, policy: OpenVLAOFTPolicy, augmented: bool) -> np.ndarray:
    """One upright frame to ``[S, S, 3] uint8``."""
    if augmented:
        return _UNCROPPED[policy.config.image_chain](frame, policy.config.image_size)
    return policy.processor.image(frame)
