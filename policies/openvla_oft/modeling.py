"""OpenVLA-OFT with discrete action tokens: images and a prompt in, logits of a whole action chunk out.

Sequence: ``[BOS] [patches] [proprio] [prompt] [C·D zero vectors] [stop] [padding]``. The logits of action token k are
read one position before its slot, so the last prompt token predicts token 0 (openvla_oft, parallel decoding).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.openvla_oft.configuration import NUM_ACTION_BINS, OpenVLAOFTConfig
from policies.openvla_oft.language import LanguageModel, rotary_table
from policies.openvla_oft.vision import LayerScale, VisionBackbone, sin_cos_positions

Pick = Callable[[Tensor, int], Tensor]


class Projector(nn.Module):
    """Fused patch features to language-model embeddings (three layers, exact GELU)."""

    def __init__(self, vision_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_dim, 4 * vision_dim)
        self.fc2 = nn.Linear(4 * vision_dim, hidden_size)
        self.fc3 = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class ProprioProjector(nn.Module):
    """Normalised proprioception ``[B, P]`` to one embedding ``[B, hidden]``."""

    def __init__(self, proprio_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, hidden_size)
        self.fc2 = nn.Linear(hidden_size, hidden_size)

    def forward(self, proprio: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(proprio)))


class OpenVLAOFT(nn.Module):
    """The policy network. Parameter names are those of released checkpoints.

    Args:
        config: Sizes and action space.

    A new model has random weights suited to training from scratch; `init_weights` draws them again.
    """

    def __init__(self, config: OpenVLAOFTConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_backbone = VisionBackbone(config)
        self.projector = Projector(config.vision_dim, config.hidden_size)
        if config.use_proprio:
            self.proprio_projector = ProprioProjector(config.proprio_dim, config.hidden_size)
        self.language_model = LanguageModel(config)
        self.action_slot_embeddings = None
        if config.action_slot_embeddings:
            self.action_slot_embeddings = nn.Parameter(torch.zeros(config.num_action_tokens, config.hidden_size))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw weights: variance-preserving linear layers, residual outputs shrunk with depth."""
        if self.language_model.lm_head.weight.is_meta:
            return
        gain = self.config.initializer_gain
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                std = gain / math.sqrt(module.weight[0].numel())
                if name.endswith((".attn.proj", ".mlp.fc2", ".o_proj", ".down_proj")):
                    std /= math.sqrt(2 * self._stack_depth(name))
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=gain)
            elif isinstance(module, LayerScale):
                nn.init.ones_(module.scale_factor)
        for name, parameter in self.named_parameters():
            if name.endswith("pos_embed"):
                parameter.copy_(sin_cos_positions(*parameter.shape[1:]))
            elif name.endswith(("cls_token", "reg_token", "latent")):
                nn.init.normal_(parameter, std=0.02 * gain)
        if self.action_slot_embeddings is not None:
            nn.init.normal_(self.action_slot_embeddings, std=gain)
        # Small head: the first policy is close to uniform over the bins.
        nn.init.normal_(self.language_model.lm_head.weight, std=0.02)

    def _stack_depth(self, name: str) -> int:
        if name.startswith("language_model"):
            return self.config.num_hidden_layers
        fused = name.startswith("vision_backbone.fused_featurizer")
        return (self.config.fused_featurizer if fused else self.config.featurizer).depth

    @property
    def device(self) -> torch.device:
        return self.language_model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language_model.lm_head.weight.dtype

    def blocks(self) -> list[nn.Module]:
        """The repeated layers that are computed, in order: the units of sharding, recomputation and compilation."""
        towers = (self.vision_backbone.featurizer, self.vision_backbone.fused_featurizer)
        return [block for tower in towers for block in tower.blocks[:-1]] + list(self.language_model.model.layers)

    def idle_parts(self) -> list[nn.Module]:
        """Parts that are not computed: they exist because released checkpoints hold their weights."""
        towers = (self.vision_backbone.featurizer, self.vision_backbone.fused_featurizer)
        pools = [tower.attn_pool for tower in towers if hasattr(tower, "attn_pool")]
        return [part for tower in towers for part in (tower.blocks[-1], tower.norm)] + pools

    @torch.no_grad()
    def check_attention(self) -> None:
        """Prove on this model's own masks and first layer which of four positions the second sees; the last is padding.

        With parallel decoding it must see all but the padding, with autoregressive decoding none that comes later.

        Raises:
            RuntimeError: It does not (an attention kernel that ignores or replaces the mask, or a wrong mask).
        """
        model = self.language_model.model
        key_mask = torch.tensor([[True, True, True, False]], device=self.device)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 4, self.config.hidden_size, generator=generator).to(self.device, self.dtype)
        rotary = rotary_table(4, model.head_dim, model.rope_theta, x)
        attention = model.layers[0].get_submodule("self_attn")
        for mask in model.masks(key_mask, torch.tensor([[1]], device=self.device)):
            reference = attention(x, rotary, mask)[:, 1]
            for changed in range(4):
                other = x.clone()
                other[:, changed] = -other[:, changed]
                is_seen = not torch.equal(reference, attention(other, rotary, mask)[:, 1])
                if is_seen != (changed < (2 if model.causal else 3)):
                    wrong = {(2, True): "is not causal", (2, False): "is causal", (3, True): "sees padding"}
                    raise RuntimeError(f"attention {wrong.get((changed, is_seen), 'does not see what came before')}")

    def visual_tokens(self, images: Tensor, proprio: Tensor | None) -> Tensor:
        """``[B, n, S, S, 3] uint8`` (and ``[B, P]``) to visual tokens ``[B, num_visual_tokens, hidden]``."""
        batch = images.shape[0]
        features = self.vision_backbone(images.flatten(0, 1))
        tokens = self.projector(features).reshape(batch, -1, self.config.hidden_size)
        if not self.config.use_proprio:
            return tokens
        if proprio is None:
            raise ValueError("this policy uses proprioception: pass proprio [B, P], normalised")
        return torch.cat([tokens, self.proprio_projector(proprio.to(tokens.dtype)).unsqueeze(1)], dim=1)

    def multimodal_embeds(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, proprio: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Assemble the language model's input.

        Returns:
            Embeddings ``[B, S, hidden]``, number of real positions ``[B]``, and the position ``[B]`` of the
            last prompt token, which predicts action token 0.
        """
        slots = self.config.num_action_tokens
        stop = input_ids.new_full((len(input_ids), 1), self.config.stop_token_id)
        embeds, first = self._sequence(images, input_ids, attention_mask, proprio, following=stop, gap=slots)
        if self.action_slot_embeddings is not None:
            read = first.unsqueeze(1) + torch.arange(slots, device=first.device)
            read = read.unsqueeze(-1).expand(-1, -1, embeds.shape[-1])
            embeds = embeds.scatter_add(1, read, self.action_slot_embeddings.to(embeds.dtype).expand(read.shape))
        return embeds, first + slots + 2, first

    def _sequence(
        self,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
        *,
        following: Tensor,
        gap: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings ``[B, S, hidden]`` of BOS, visual tokens, the rest of the prompt, `gap` zero vectors and the ids
        `following` ``[B, n]``; and the position ``[B]`` of each row's last prompt token."""
        prompt_mask = attention_mask.bool()
        visual = self.visual_tokens(images, proprio)
        embedded = self.language_model.model.embed_tokens(torch.cat([input_ids, following], dim=1))
        prompt, last = embedded.split([input_ids.shape[1], following.shape[1]], dim=1)
        prompt = prompt.masked_fill(~prompt_mask.unsqueeze(-1), 0.0)
        # Gap and padding are exact zeros, so "prompt, gap, following, padding" is the prompt extended with zeros and
        # what follows written at each row's own place: no row is ever permuted.
        tail = F.pad(prompt[:, 1:], (0, 0, 0, gap + following.shape[1]))
        end = prompt_mask.sum(dim=1) - 1
        places = (end + gap).unsqueeze(1) + torch.arange(following.shape[1], device=end.device)
        tail = tail.scatter(1, places.unsqueeze(-1).expand(-1, -1, tail.shape[-1]), last)
        return torch.cat([prompt[:, :1], visual.to(prompt.dtype), tail], dim=1), visual.shape[1] + end

    def action_hidden(
        self,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
        *,
        num_tokens: int | None = None,
    ) -> Tensor:
        """Hidden states ``[B, num_tokens, hidden]`` that give the logits of the first tokens (default: C·D)."""
        embeds, num_real, first = self.multimodal_embeds(images, input_ids, attention_mask, proprio)
        index = torch.arange(embeds.shape[1], device=embeds.device)
        key_mask = index < num_real.unsqueeze(1)
        positions = first.unsqueeze(1) + index[: num_tokens or self.config.num_action_tokens]
        return self.language_model.model(embeds, key_mask, positions)

    def full_logits(
        self, images: Tensor, input_ids: Tensor, attention_mask: Tensor, proprio: Tensor | None = None
    ) -> Tensor:
        """Logits of the action tokens and the stop token over the whole vocabulary, for supervised training.

        Arguments are those of `forward`.

        Returns:
            ``[B, C·D + 1, vocab_size] float32``; the last row predicts the stop token.
        """
        num_tokens = self.config.num_action_tokens + 1
        hidden = self.action_hidden(images, input_ids, attention_mask, proprio, num_tokens=num_tokens)
        return self.language_model.lm_head(hidden).float()

    def forward(
        self,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
        bins: Tensor | None = None,
    ) -> Tensor:
        """Logits of the action tokens of one chunk.

        Args:
            images: ``[B, n, S, S, 3] uint8``, already through the image chain; normalised here.
            input_ids: ``[B, L] int64`` prompts with BOS, right-padded.
            attention_mask: ``[B, L]`` bool or int, true for real prompt tokens.
            proprio: ``[B, P]`` normalised proprioception, if the policy uses it.
            bins: Tokens of the chunk, for models that decode one after the other; here they do not see each other.

        Returns:
            ``[B, C·D, 256] float32`` over bins in order of rising token id (falling action).
        """
        return self.bin_logits(self.action_hidden(images, input_ids, attention_mask, proprio))

    def bin_logits(self, hidden: Tensor) -> Tensor:
        """Output head of the action ids only: ``[B, N, hidden]`` to ``[B, N, 256] float32``."""
        first = self.config.first_action_id
        return F.linear(hidden, self.language_model.lm_head.weight[first : first + NUM_ACTION_BINS]).float()

    def generate(
        self,
        pick: Pick,
        *,
        images: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        proprio: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decides the tokens of a chunk.

        Args:
            pick: Called with logits ``[B, n, 256]`` of tokens ``first`` .. ``first + n - 1`` and `first`; returns
                their bins ``[B, n]``.
            images, input_ids, attention_mask, proprio: See `forward`.

        Returns:
            Bins ``[B, C·D] int64`` and the logits ``[B, C·D, 256] float32`` that they were picked from.
        """
        logits = self(images=images, input_ids=input_ids, attention_mask=attention_mask, proprio=proprio)
        return pick(logits, 0), logits
