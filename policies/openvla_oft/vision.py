"""The two vision towers (DINOv2 with registers, SigLIP) as plain PyTorch with the released parameter names.

Only what the policy reads is computed: patch features of the second-to-last block. The last block, the final
norm and SigLIP's pooling head exist because released checkpoints hold their weights and loading is strict.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.openvla_oft.configuration import OpenVLAOFTConfig, VisionTowerConfig

LAYER_NORM_EPS = 1e-6

# ImageNet constants as rounded to bfloat16 by the released preprocessor, and SigLIP's (mean, std) per tower.
PIXEL_MEAN = ((0.484375, 0.455078125, 0.40625), (0.5, 0.5, 0.5))
PIXEL_STD = ((0.228515625, 0.2236328125, 0.224609375), (0.5, 0.5, 0.5))


def sin_cos_positions(num_patches: int, dim: int) -> Tensor:
    """Position embeddings to start from: sines and cosines of a patch's column and row, ``[1, num_patches, dim]``.

    Wavelengths reach from twice the picture's side down to two patches.
    """
    side = math.isqrt(num_patches)
    rows, columns = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    # dim // 4 waves each; towers whose width is not a multiple of 4 get zeros in the rest.
    frequencies = math.pi * torch.logspace(0, math.log10(side), dim // 4)
    waves = [
        wave(axis.flatten().unsqueeze(1) * frequencies) for axis in (columns, rows) for wave in (torch.sin, torch.cos)
    ]
    positions = torch.cat(waves, dim=1)
    return F.pad(positions, (0, dim - positions.shape[1])).unsqueeze(0)


class LayerScale(nn.Module):
    """Per-channel scale of a residual branch (timm's ``gamma``, renamed in released checkpoints)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_factor


class Attention(nn.Module):
    """Multi-head self-attention over ``[B, N, dim]``."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, dim = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, dim))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, config.num_heads)
        self.ls1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, config.mlp_dim)
        self.ls2 = LayerScale(dim) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class AttentionPool(nn.Module):
    """Parameters of SigLIP's pooling head. The policy uses patch features only, so it has no forward."""

    def __init__(self, config: VisionTowerConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, config.mlp_dim)


class PatchEmbed(nn.Module):
    """Linear embedding of flattened patches ``[B, P, 3·p·p]`` (a convolution with stride = kernel)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class VisionTransformer(nn.Module):
    """One tower: flattened, normalised patches ``[B, P, 3·p·p]`` to features ``[B, P, embed_dim]``."""

    def __init__(self, config: VisionTowerConfig, patch_size: int, num_patches: int) -> None:
        super().__init__()
        dim = config.embed_dim
        self.num_prefix_tokens = config.num_prefix_tokens
        if config.num_prefix_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.reg_token = nn.Parameter(torch.zeros(1, config.num_prefix_tokens - 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches, dim))
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        if config.attention_pool:
            self.attn_pool = AttentionPool(config)

    def forward(self, patches: Tensor) -> Tensor:
        x = self.patch_embed(patches) + self.pos_embed
        if self.num_prefix_tokens:
            # Prefix tokens carry no position and join after it was added.
            prefix = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        return x[:, self.num_prefix_tokens :]


class VisionBackbone(nn.Module):
    """Both towers, features concatenated per patch (DINOv2 first)."""

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.featurizer = VisionTransformer(config.featurizer, config.patch_size, config.num_patches)
        self.fused_featurizer = VisionTransformer(config.fused_featurizer, config.patch_size, config.num_patches)

    def patchify(self, images: Tensor) -> Tensor:
        """``[B, S, S, 3] uint8`` to ``[B, P, 3, p·p] float32`` in [0, 1], patches in row-major order."""
        b, side = images.shape[0], images.shape[1] // self.patch_size
        patches = images.view(b, side, self.patch_size, side, self.patch_size, 3).permute(0, 1, 3, 5, 2, 4)
        return patches.reshape(b, side * side, 3, -1).float() / 255

    def forward(self, images: Tensor) -> Tensor:
        """``[B, S, S, 3] uint8`` to fused features ``[B, P, vision_dim]``."""
        patches = self.patchify(images)
        dtype = self.featurizer.pos_embed.dtype
        features = []
        for tower, mean, std in zip((self.featurizer, self.fused_featurizer), PIXEL_MEAN, PIXEL_STD, strict=True):
            # Scalars, not a tensor of constants: nothing to copy to a GPU in a CUDA graph.
            channels = [(patches[:, :, c] - m) / s for c, (m, s) in enumerate(zip(mean, std, strict=True))]
            features.append(tower(torch.cat(channels, dim=-1).to(dtype)))
        return torch.cat(features, dim=-1)
