"""Observations to model inputs: image chain, prompt ids, proprioception."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from policies.openvla_oft.checkpoint import write_json
from policies.openvla_oft.configuration import OpenVLAOFTConfig
from policies.openvla_oft.image_chain import Frame, apply_chain, rotate_180
from policies.openvla_oft.norm_stats import ProprioNormalizer
from policies.openvla_oft.tokenization import PromptTokenizer, build_tokenizer

# What the released preprocessor_config.json says: both towers see the same resized picture.
_CHANNEL_STATS = (
    (
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
        [0.484375, 0.455078125, 0.40625],
        [0.228515625, 0.2236328125, 0.224609375],
    ),
    ([0.5] * 3, [0.5] * 3, [0.5] * 3, [0.5] * 3),
)


class Processor:
    """Turns frames, instructions and states into arrays for `OpenVLAOFT.forward`.

    Args:
        config: Image size, image chain, padding id.
        tokenizer: Prompt tokenizer.
        proprio_normalizer: Statistics of the proprioception; needed only if the policy uses it.
    """

    def __init__(
        self,
        config: OpenVLAOFTConfig,
        tokenizer: PromptTokenizer,
        proprio_normalizer: ProprioNormalizer | None = None,
    ) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.proprio_normalizer = proprio_normalizer

    @classmethod
    def build_tiny(cls, instructions: Sequence[str], config: OpenVLAOFTConfig) -> Processor:
        """A processor for training from scratch, with a tokenizer made from `instructions`."""
        return cls(config, PromptTokenizer(build_tokenizer(instructions, config), config))

    def image(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One upright frame ``[H, W, 3] uint8`` through the image chain to ``[S, S, 3] uint8``."""
        return self._apply_chain([frame], self.config.image_chain)[0]

    def prompt_ids(self, instruction: str) -> NDArray[np.int64]:
        """Prompt ids ``[L] int64`` of an instruction (cached, shared array)."""
        return self.tokenizer(instruction)

    def prepare_images(self, raw: ArrayLike, benchmark: str) -> NDArray[np.uint8]:
        """Frames exactly as a simulator gives them to pictures for the model.

        Args:
            raw: ``[B, n, H, W, 3] uint8``, array or CPU tensor. LIBERO's are upside down, as its own renderer leaves
                them.
            benchmark: ``"libero"`` (rotate, JPEG, Lanczos, crop) or ``"robotwin"`` (crop).

        Returns:
            ``[B, n, S, S, 3] uint8``.
        """
        if benchmark not in ("libero", "robotwin"):
            raise ValueError(f"benchmark must be 'libero' or 'robotwin', not {benchmark!r}")
        frames = np.ascontiguousarray(raw)
        if frames.ndim != 5:
            raise ValueError(f"expected frames [B, n, H, W, 3], got shape {frames.shape}")
        if benchmark == "libero":
            frames = rotate_180(frames)
        pictures = self._apply_chain(frames.reshape(-1, *frames.shape[2:]), benchmark)
        return pictures.reshape(*frames.shape[:2], *pictures.shape[1:])

    def __call__(
        self, images_u8: Any, instructions: Sequence[str], proprio: ArrayLike | None = None
    ) -> dict[str, NDArray[Any]]:
        """Arrays for one batch.

        Args:
            images_u8: Prepared pictures ``[B, n, S, S, 3] uint8`` (array or CPU tensor, as `prepare_images` gives
                them); of another size they are resized as the released image processor does. Or upright frames ``[B,
                H, W, 3]`` (or a list of ``[H, W, 3]``), which first go through the image chain.
            instructions: B task descriptions.
            proprio: ``[B, P]`` raw states; normalised here.

        Returns:
            ``images [B, n, S, S, 3] uint8``, ``input_ids [B, L] int64`` right-padded, ``attention_mask [B,
            L] bool``, and ``proprio [B, P] float32`` if the policy uses it.

        Raises:
            ValueError: Shapes or counts that do not fit together.
        """
        pictures = self._pictures(images_u8)
        if len(pictures) != len(instructions):
            raise ValueError(f"{len(pictures)} observations but {len(instructions)} instructions")
        inputs = {"images": pictures, **self.pad_prompts([self.prompt_ids(text) for text in instructions])}
        if self.config.use_proprio:
            if proprio is None:
                raise ValueError(f"this policy uses proprioception: pass proprio [B, {self.config.proprio_dim}]")
            if self.proprio_normalizer is None:
                raise ValueError("this policy uses proprioception but has no statistics to normalise it with")
            if np.shape(proprio) != (len(pictures), self.config.proprio_dim):
                expected = [len(pictures), self.config.proprio_dim]
                raise ValueError(f"expected proprio {expected}, got shape {list(np.shape(proprio))}")
            inputs["proprio"] = self.proprio_normalizer.normalize(proprio).astype(np.float32)
        return inputs

    def pad_prompts(self, prompts: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Prompts of different lengths to right-padded ``input_ids`` and ``attention_mask``."""
        lengths = np.array([len(ids) for ids in prompts])
        mask = np.arange(lengths.max()) < lengths[:, None]
        input_ids = np.full(mask.shape, self.config.pad_token_id, dtype=np.int64)
        input_ids[mask] = np.concatenate(prompts)
        return {"input_ids": input_ids, "attention_mask": mask}

    def _pictures(self, images: Any) -> NDArray[np.uint8]:
        n, size = self.config.num_images, self.config.image_size
        if isinstance(images, torch.Tensor):
            images = images.numpy()
        if isinstance(images, np.ndarray) and images.ndim == 5:
            images = np.ascontiguousarray(images)
            if images.dtype != np.uint8 or images.shape[1] != n or images.shape[4] != 3:
                raise ValueError(f"expected uint8 pictures [B, {n}, S, S, 3], got {images.dtype} {images.shape}")
            if images.shape[2:4] == (size, size):
                return images
            return self._apply_chain(images.reshape(-1, *images.shape[2:]), "resize").reshape(-1, n, size, size, 3)
        if n != 1:
            raise ValueError(f"this policy sees {n} images: pass prepared pictures [B, {n}, {size}, {size}, 3]")
        return self._apply_chain([np.ascontiguousarray(frame) for frame in images], self.config.image_chain)[:, None]

    def _apply_chain(self, frames: Sequence[Frame] | Frame, chain: str) -> NDArray[np.uint8]:
        # A process that may use several cores for the model may use them for the frames as well.
        return apply_chain(frames, chain, self.config.image_size, num_threads=torch.get_num_threads())

    def preprocessor_config(self) -> dict[str, Any]:
        """``preprocessor_config.json`` in the released layout."""
        size = self.config.image_size
        means, stds, norm_means, norm_stds = zip(*_CHANNEL_STATS, strict=True)
        resize = {"antialias": True, "interpolation": 3, "max_size": None, "size": [size, size]}
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "image_resize_strategy": "resize-naive",
            "input_sizes": [[3, size, size]] * 2,
            "interpolations": ["bicubic"] * 2,
            "means": list(means),
            "stds": list(stds),
            "tvf_crop_params": [{"output_size": [size, size]}] * 2,
            "tvf_do_letterbox": False,
            "tvf_letterbox_fill": None,
            "tvf_normalize_params": [
                {"inplace": False, "mean": mean, "std": std} for mean, std in zip(norm_means, norm_stds, strict=True)
            ],
            "tvf_resize_params": [resize] * 2,
            "use_fused_vision_backbone": True,
        }

    def save_pretrained(self, path: str | Path) -> None:
        """Write the tokenizer and ``preprocessor_config.json``."""
        self.tokenizer.save_pretrained(path)
        write_json(Path(path) / "preprocessor_config.json", self.preprocessor_config())
