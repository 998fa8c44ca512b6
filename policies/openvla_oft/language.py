"""Llama decoder with the released parameter names and an explicit attention mask.

OpenVLA-OFT decodes a whole chunk in one pass: every position sees every other that is not padding. Library
implementations of Llama are causal by default, and silently so when versions change; here the mask is the only mask
there is. Plain OpenVLA asks for a causal one (`LlamaBackbone.causal`). Two more things are ours: the last layer can be
asked for a few positions only, and norms and rotations run as few, fused operations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.openvla_oft.configuration import AUTOREGRESSIVE, OpenVLAOFTConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32 and rounded before the scale, as in the reference.

    `rms_norm` does the former by itself; with its own weight it would round after the scale.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, eps=self.eps) * self.weight


def rotary_table(length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine ``[length, head_dim / 2]`` of the rotary angles of positions 0..length-1."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=like.device) / head_dim
    positions = torch.arange(length, dtype=torch.float32, device=like.device)
    angles = torch.outer(positions, 1.0 / theta**exponent)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``[B, heads, S, head_dim]`` by the angles ``[S or B·1·S, head_dim / 2]`` (half-split layout)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class KeyValueCache:
    """Keys and values of one layer's past positions, for decoding token by token.

    Args:
        keys, values: ``[B, heads, S, head_dim]``, to be filled.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def write(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        """Stores ``[B, heads, n, head_dim]`` at `positions` ``[B, n]``, which differ from row to row."""
        index = positions[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        self.keys.scatter_(2, index, keys)
        self.values.scatter_(2, index, values)


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions; sees what the mask allows."""

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.grouped = config.num_key_value_heads != config.num_attention_heads
        kv_dim = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        positions: Tensor | None = None,
        cache: tuple[KeyValueCache, Tensor] | None = None,
    ) -> Tensor:
        """Attend from `positions` (``[B, N] int64``; all if None) to every position allowed by `mask`.

        Args:
            x: ``[B, S, hidden]``.
            rotary: Cosine and sine tables of the S positions (of each row's own, if they differ).
            mask: bool, true where a position may be attended to: ``[B, 1, 1 or N or S, S or cached]``.
            positions: Query positions.
            cache: Keys and values are first written here, at the given places ``[B, S]`` of the sequence, and
                attention is to all that it holds.

        Returns:
            ``[B, N or S, hidden]``.
        """
        cos, sin = rotary
        k = rotate(self._heads(self.k_proj(x)), cos, sin)
        v = self._heads(self.v_proj(x))
        if cache is not None:
            past, places = cache
            past.write(k, v, places)
            k, v = past.keys, past.values
        if positions is not None:
            x = select(x, positions)
            cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)
        q = rotate(self._heads(self.q_proj(x)), cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.grouped)
        return self.o_proj(out.transpose(1, 2).reshape(x.shape))


class GatedMlp(nn.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        if torch.is_grad_enabled():
            return self.down_proj(F.silu(gate) * up)
        # The largest activations of all: without a backward pass to keep them for, two at a time instead of four.
        return self.down_proj(F.silu(gate, inplace=True).mul_(up))


class DecoderLayer(nn.Module):
    """One Llama layer; see `SelfAttention.forward` for the arguments."""

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMlp(config)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        positions: Tensor | None = None,
        cache: tuple[KeyValueCache, Tensor] | None = None,
    ) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotary, mask, positions, cache)
        x = (x if positions is None else select(x, positions)) + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaBackbone(nn.Module):
    """Embedding, layers and final norm: what released checkpoints call ``language_model.model``.

    Attributes:
        causal: Whether a position sees the ones before it only (plain OpenVLA), or all that are not padding.
    """

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.rope_theta = config.rope_theta
        self.causal = config.decoding == AUTOREGRESSIVE
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeds: Tensor, key_mask: Tensor, positions: Tensor) -> Tensor:
        """Hidden states after the final norm, at `positions` only.

        Args:
            embeds: ``[B, S, hidden]``, real tokens first, padding last.
            key_mask: ``[B, S] bool``, true for real tokens.
            positions: ``[B, N] int64``.

        Returns:
            ``[B, N, hidden]``.
        """
        rotary = rotary_table(embeds.shape[1], self.head_dim, self.rope_theta, embeds)
        mask, last_mask = self.masks(key_mask, positions)
        x = embeds
        for i, layer in enumerate(self.layers):
            wanted = None
            if i == len(self.layers) - 1:
                wanted, mask = positions, last_mask
            x = layer(x, rotary, mask, wanted)
        return self.norm(x)

    def masks(self, key_mask: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What every position may attend to, ``[B or 1, 1, 1 or S, S] bool``, and what `positions` may (1 or N rows).

        Arguments are those of `forward`.
        """
        if not self.causal:
            return (key_mask[:, None, None, :],) * 2
        places = torch.arange(key_mask.shape[1], device=key_mask.device)
        return causal_mask(places[None], places), causal_mask(positions, places)  # padding, which is last, is not seen


class LanguageModel(nn.Module):
    """Backbone and output head: what released checkpoints call ``language_model``."""

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.model = LlamaBackbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


def causal_mask(queries: Tensor, places: Tensor) -> Tensor:
    """What positions `queries` ``[B, N]`` see of `places` ``[S]``: ``[B, 1, N, S] bool``."""
    return (places <= queries.unsqueeze(-1)).unsqueeze(1)


def select(x: Tensor, positions: Tensor) -> Tensor:
    """Rows `positions` (``[B, N]``) of ``[B, S, hidden]``, per sample."""
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
