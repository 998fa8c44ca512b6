"""Plain OpenVLA (arXiv 2406.09246): the same towers and Llama, action tokens one after the other, causal attention.

Sequence: ``[BOS] [patches] [proprio] [prompt] [token 0] [token 1] ...``, padding last. Sampling keeps keys and values
of what was read; log-probabilities of given tokens take one pass over the whole sequence. Both read token k at the
position before it, so they agree within rounding. Tokens are drawn from the 256 action bins only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policies.openvla_oft.language import KeyValueCache, causal_mask, rotary_table
from policies.openvla_oft.modeling import OpenVLAOFT, Pick


class OpenVLA(OpenVLAOFT):
    """The policy network of plain OpenVLA; parameter names are the same."""

    def forward(
        self,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
        bins: Tensor | None = None,
    ) -> Tensor:
        """Logits of given action tokens, in one teacher-forced pass.

        Args:
            images, input_ids, attention_mask, proprio: See `OpenVLAOFT.forward`.
            bins: The tokens, ``[B, C·D] int64`` in 0..255; each sees the ones before it.

        Returns:
            ``[B, C·D, 256] float32``.

        Raises:
            ValueError: Without `bins`.
        """
        if bins is None:
            raise ValueError("logits of a model that decodes token by token depend on the tokens: pass bins [B, N]")
        read = bins[:, :-1] + self.config.first_action_id
        embeds, first = self._sequence(images, input_ids, attention_mask, proprio, following=read)
        positions = first.unsqueeze(1) + torch.arange(bins.shape[1], device=embeds.device)
        key_mask = torch.arange(embeds.shape[1], device=embeds.device) <= positions[:, -1:]
        return self.bin_logits(self.language_model.model(embeds, key_mask, positions))

    def full_logits(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, proprio: Tensor | None = None
    ) -> Tensor:
        """Not of this model. ValueError."""
        raise ValueError("the loss over the full vocabulary is of parallel decoding: use the one over the action bins")

    @torch.no_grad()
    def generate(
        self,
        pick: Pick,
        *,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `OpenVLAOFT.generate`; `pick` is called for one token after the other."""
        llama, num_tokens = self.language_model.model, self.config.num_action_tokens
        x, first = self._sequence(images, input_ids, attention_mask, proprio, following=input_ids[:, :0])
        batch, length = x.shape[:2]
        total = length + num_tokens - 1
        rotary = rotary_table(total, llama.head_dim, llama.rope_theta, x)
        places = torch.arange(total, device=x.device)
        shape = (batch, self.config.num_key_value_heads, total, llama.head_dim)
        caches = [KeyValueCache(x.new_zeros(shape), x.new_zeros(shape)) for _ in llama.layers]

        # The prompt: the last layer is asked for the position that predicts token 0.
        read = first.unsqueeze(1)
        mask, table = causal_mask(places[None, :length], places), tuple(part[:length] for part in rotary)
        where = places[:length].expand(batch, -1)
        for layer, cache in zip(llama.layers[:-1], caches[:-1], strict=True):
            x = layer(x, table, mask, None, (cache, where))
        x = llama.layers[-1](x, table, causal_mask(read, places), read, (caches[-1], where))

        bins: list[Tensor] = []
        logits: list[Tensor] = []
        for k in range(num_tokens):
            if k > 0:
                read = read + 1
                x = llama.embed_tokens(bins[-1] + self.config.first_action_id)
                mask, table = causal_mask(read, places), tuple(part[read].unsqueeze(1) for part in rotary)
                for layer, cache in zip(llama.layers, caches, strict=True):
                    x = layer(x, table, mask, None, (cache, read))
            logits.append(self.bin_logits(llama.norm(x)))
            bins.append(pick(logits[-1], k))
        return torch.cat(bins, dim=1), torch.cat(logits, dim=1)
