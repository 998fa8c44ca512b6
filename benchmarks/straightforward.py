"""The straightforward way to run OpenVLA-OFT, with the same weights and the same results: the baseline to beat.

Every ViT block is computed though the last ones are not read, logits are taken at all positions over the whole
vocabulary, norms are computed on a float32 copy, adapters are left to autograd, and frames go one by one through an
image chain written in NumPy.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.openvla_oft import OpenVLAOFT
from policies.openvla_oft.configuration import NUM_ACTION_BINS
from policies.openvla_oft.image_chain import crop_rows, jpeg_round_trip, lanczos_weights
from policies.openvla_oft.language import RMSNorm, rotary_table, select
from policies.openvla_oft.lora import LoRALinear
from policies.openvla_oft.vision import VisionTransformer


class EveryBlock(VisionTransformer):
    """A vision tower that computes all of its blocks and its final norm, and gives the second-to-last features."""

    def forward(self, patches: Tensor) -> Tensor:
        features = super().forward(patches)
        # What `super` leaves out; in training its result is thrown away as well.
        prefix = torch.zeros_like(features[:, : self.num_prefix_tokens])
        self.norm(self.blocks[-1](torch.cat([prefix, features], dim=1)))
        return features


class CopyingNorm(RMSNorm):
    """A norm that copies its input to float32 first."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class PlainLoRALinear(LoRALinear):
    """An adapted layer as its formula reads."""

    def forward(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.lora_A.to(x.dtype))
        return nn.Linear.forward(self, x) + self.scale * F.linear(inner, self.lora_B.to(x.dtype))


_STRAIGHTFORWARD = {VisionTransformer: EveryBlock, RMSNorm: CopyingNorm, LoRALinear: PlainLoRALinear}


def make_straightforward(model: OpenVLAOFT) -> OpenVLAOFT:
    """Makes the layers of `model` compute in the straightforward way, in place."""
    for module in model.modules():
        module.__class__ = _STRAIGHTFORWARD.get(type(module), type(module))
    return model


def action_logits(model: OpenVLAOFT, images: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What `model(...)` returns, ``[B, C*D, 256] float32``, cut out of the logits of all positions and ids."""
    embeds, num_real, first = model.multimodal_embeds(images, input_ids, attention_mask)
    backbone = model.language_model.model
    index = torch.arange(embeds.shape[1], device=embeds.device)
    mask = (index < num_real.unsqueeze(1))[:, None, None, :]
    rotary = rotary_table(embeds.shape[1], backbone.head_dim, backbone.rope_theta, embeds)
    hidden = embeds
    for layer in backbone.layers:
        hidden = layer(hidden, rotary, mask)
    logits = model.language_model.lm_head(backbone.norm(hidden)).float()
    positions = first.unsqueeze(1) + index[: model.config.num_action_tokens]
    start = model.config.first_action_id
    return select(logits, positions)[..., start : start + NUM_ACTION_BINS]


def libero_picture(frame: np.ndarray, size: int = 224) -> np.ndarray:
    """One upright frame ``[H, W, 3] uint8`` through the chain "libero" to ``[size, size, 3] uint8``."""
    decoded = jpeg_round_trip(frame)
    rows = _weighted_sum(decoded.astype(np.float32), *lanczos_weights(frame.shape[0], size))
    columns = _weighted_sum(np.ascontiguousarray(rows.transpose(1, 0, 2)), *lanczos_weights(frame.shape[1], size))
    resized = np.clip(np.rint(columns.transpose(1, 0, 2)), 0, 255)
    pixels = resized.astype(np.float32) * np.float32(1 / 255)
    low, high, weight = crop_rows(size, size)
    across = pixels[:, low] + (pixels[:, high] - pixels[:, low]) * weight[None, :, None]
    values = across[low] + (across[high] - across[low]) * weight[:, None, None]
    return np.minimum(np.clip(values, 0, 1) * np.float32(255.5), 255).astype(np.uint8)


def _weighted_sum(values: np.ndarray, taps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = np.zeros((len(taps), *values.shape[1:]), np.float32)
    for tap, weight in zip(taps.T, weights.T, strict=True):
        total += values[tap] * weight[:, None, None]
    return total
