"""The policy as users hold it: model, processor, action tokens and statistics of one checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from policies.openvla_oft import checkpoint, sampling, weights
from policies.openvla_oft.action_tokenizer import ActionTokenizer
from policies.openvla_oft.atomic_directory import atomic_directory
from policies.openvla_oft.autoregressive import OpenVLA
from policies.openvla_oft.checkpoint import CheckpointError
from policies.openvla_oft.configuration import AUTOREGRESSIVE, OWN_KEY, OpenVLAOFTConfig
from policies.openvla_oft.modeling import OpenVLAOFT, ProprioProjector
from policies.openvla_oft.norm_stats import Normalizer, ProprioNormalizer, resolve_unnorm_key
from policies.openvla_oft.processing import Processor
from policies.openvla_oft.released import config_and_statistics
from policies.openvla_oft.tokenization import PromptTokenizer, build_tokenizer

Inputs = Mapping[str, Any]


AnyNormalizer = TypeVar("AnyNormalizer", bound=Normalizer)


def make_model(config: OpenVLAOFTConfig) -> OpenVLAOFT:
    """The network that `config` describes, with random weights."""
    return (OpenVLA if config.decoding == AUTOREGRESSIVE else OpenVLAOFT)(config)


class OpenVLAOFTPolicy:
    """A model with everything needed to turn observations into actions.

    Args:
        config: Sizes and conventions.
        model: The network.
        tokenizer: Prompt tokenizer.
        norm_stats: Statistics per data set.
        unnorm_key: Which statistics to use; None is allowed as long as no physical units are asked for.

    Raises:
        CheckpointError: The statistics do not fit `config`.
        ValueError: The policy reads the state, there are several statistics, and none was chosen.
    """

    def __init__(
        self,
        config: OpenVLAOFTConfig,
        model: OpenVLAOFT,
        tokenizer: PromptTokenizer,
        norm_stats: dict[str, Any],
        unnorm_key: str | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.norm_stats = norm_stats
        self.unnorm_key = unnorm_key
        self.action_tokenizer = ActionTokenizer(config.first_action_id)
        if unnorm_key is not None:
            self._normalizer(Normalizer, "action", config.action_dim)  # refused now, not at the first action
        proprio = None
        if config.use_proprio:
            proprio = self._normalizer(ProprioNormalizer, "proprio", config.proprio_dim)
        self.processor = Processor(config, tokenizer, proprio)

    @classmethod
    def from_scratch(
        cls,
        config: OpenVLAOFTConfig,
        instructions: Sequence[str],
        norm_stats: dict[str, Any],
        unnorm_key: str | None = None,
    ) -> OpenVLAOFTPolicy:
        """A policy with random weights and a tokenizer made from `instructions`.

        Args:
            config: For example ``OpenVLAOFTConfig.preset("tiny")``.
            instructions: Every instruction the policy should know as whole words.
            norm_stats: ``{key: compute_statistics(...)}``.
            unnorm_key: Entry of `norm_stats`; may be left out if there is one.
        """
        key = resolve_unnorm_key(norm_stats, unnorm_key or config.unnorm_key)
        config = dataclasses.replace(config, unnorm_key=key)
        tokenizer = PromptTokenizer(build_tokenizer(instructions, config), config)
        return cls(config, make_model(config), tokenizer, norm_stats, key)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        unnorm_key: str | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        num_images: int | None = None,
        use_proprio: bool | None = None,
        added_statistics: dict[str, Any] | None = None,
        new_proprio_projector: bool = False,
        **overrides: Any,
    ) -> OpenVLAOFTPolicy:
        """Load a released checkpoint or one of ours.

        Args:
            path: Directory, or Hugging Face hub id.
            unnorm_key: Data set whose statistics to use, e.g. ``"libero_10"`` or ``"robotwin2_lift_pot_1k"``.
            dtype: Of the parameters.
            device: Of the parameters; "meta" leaves them without values, to be filled by the caller.
            num_images: Camera images per observation (default: what the checkpoint says, else 1).
            use_proprio: Whether to feed the state (default: what the checkpoint says, else whether it has
                the weights).
            added_statistics: Statistics of further data sets, for fine-tuning; the checkpoint's own win.
            new_proprio_projector: If the state is fed and the checkpoint has no weights for it, draw some, to be
                trained. Otherwise such a checkpoint is refused.
            **overrides: Configuration fields that win over the checkpoint, e.g. ``chunk_size=5``. Released
                checkpoints do not say how they decode: plain OpenVLA needs ``decoding="autoregressive"``.

        Raises:
            FileNotFoundError, CheckpointError, ValueError: The message says what is wrong and what to do.
        """
        directory = checkpoint.resolve(path)
        config, stats = config_and_statistics(
            directory,
            unnorm_key,
            num_images=num_images,
            use_proprio=use_proprio,
            added_statistics=added_statistics,
            **overrides,
        )
        tokenizer = PromptTokenizer.from_pretrained(directory, config)
        with torch.device("meta"):
            model = make_model(config).eval()
        policy = cls(config, model, tokenizer, stats, config.unnorm_key)
        if torch.device(device).type == "meta":
            model.to(dtype)
        else:
            new_proprio = None
            if new_proprio_projector and config.use_proprio:
                new_proprio = ProprioProjector(config.proprio_dim, config.hidden_size)
            weights.load_weights(model, directory, dtype=dtype, device=device, new_proprio=new_proprio)
            model.check_attention()
        return policy

    def save_pretrained(
        self,
        path: str | Path,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        max_shard_bytes: int = weights.MAX_SHARD_BYTES,
    ) -> None:
        """Write a directory in the released layout; it appears complete or not at all.

        Args:
            path: New directory, or one written by this method before, which is replaced.
            state_dict: Weights to write instead of the model's own (for example gathered from shards).
            dtype: Convert floating-point weights, e.g. to ``torch.bfloat16``.
            max_shard_bytes: Size above which weights are split over several files.
        """
        state = self.model.state_dict() if state_dict is None else state_dict
        with atomic_directory(path) as directory:
            stored = dtype or next(iter(state.values())).dtype
            config = self.config.to_dict()
            config[OWN_KEY]["unnorm_key"] = self.unnorm_key
            config["norm_stats"] = self.norm_stats  # where other tools look first
            config["torch_dtype"] = config["text_config"]["torch_dtype"] = str(stored).removeprefix("torch.")
            checkpoint.write_json(directory / "config.json", config)
            checkpoint.write_json(directory / checkpoint.STATISTICS, self.norm_stats)
            self.processor.save_pretrained(directory)
            weights.save_weights(directory, state, dtype=dtype, max_shard_bytes=max_shard_bytes)

    save = save_pretrained

    @property
    def action_normalizer(self) -> Normalizer:
        """Map between normalised and physical actions.

        Raises:
            ValueError: The checkpoint has several statistics and none was chosen.
        """
        return self._normalizer(Normalizer, "action", self.config.action_dim)

    def _normalizer(self, kind: type[AnyNormalizer], part: str, dim: int) -> AnyNormalizer:
        key = resolve_unnorm_key(self.norm_stats, self.unnorm_key)
        if part not in self.norm_stats[key]:
            raise CheckpointError(f"the statistics of {key!r} have no {part} part: use_proprio=False, or add it")
        try:
            normalizer = kind(self.norm_stats[key][part], self.config.action_normalization)
        except ValueError as error:
            raise CheckpointError(f"the {part} statistics of {key!r} cannot be used: {error}") from error
        if normalizer.dim != dim:
            raise CheckpointError(
                f"the {part} statistics of {key!r} have {normalizer.dim} dimensions, the policy has {dim}: pass the "
                "unnorm_key of the data that the checkpoint was trained on"
            )
        return normalizer

    def to_device(self, inputs: Inputs) -> dict[str, Tensor]:
        """Processor output as tensors on the model's device."""
        return {key: torch.as_tensor(value).to(self.model.device) for key, value in inputs.items()}

    def action_logits(self, inputs: Inputs, token_ids: Tensor | ArrayLike | None = None) -> Tensor:
        """Logits ``[B, C·D, 256] float32`` of processor output; gradients flow.

        `token_ids` ``[B, C·D]`` are needed by autoregressive decoding only, where later tokens see earlier ones.
        """
        bins = None if token_ids is None else self._bins(token_ids)
        return self.model(**self.to_device(inputs), bins=bins)

    @torch.no_grad()
    def sample(
        self, inputs: Inputs, temperature: float, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw a chunk of action tokens; temperature 0 takes the most likely ones.

        Returns:
            Vocabulary ids ``[B, C·D] int64`` and their log-probabilities ``[B, C·D] float32`` at
            `temperature` (at temperature 1 for greedy tokens).
        """

        def pick(logits: Tensor, first: int) -> Tensor:
            if temperature == 0:
                return sampling.greedy(logits)
            return sampling.sample(logits, temperature, generator)[0]

        bins, logits = self.model.generate(pick, **self.to_device(inputs))
        return bins + self.config.first_action_id, sampling.token_log_probs(logits, bins, temperature or 1.0)

    def log_probs(self, inputs: Inputs, token_ids: Tensor | ArrayLike, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies ``[B, C·D] float32`` of given vocabulary ids; gradients flow."""
        log_probs = sampling.log_probs_from_logits(self.action_logits(inputs, token_ids), temperature)
        return sampling.gather(log_probs, self._bins(token_ids)), sampling.entropy(log_probs)

    def _bins(self, token_ids: Tensor | ArrayLike) -> Tensor:
        return torch.as_tensor(token_ids, device=self.model.device).long() - self.config.first_action_id

    def decode(self, token_ids: Tensor | ArrayLike) -> NDArray[np.float64]:
        """Vocabulary ids ``[B, C·D]`` to un-normalised actions ``[B, C, D] float64``."""
        ids = token_ids.cpu().numpy() if isinstance(token_ids, Tensor) else np.asarray(token_ids)
        actions = self.action_tokenizer.decode_ids(ids).reshape(-1, self.config.chunk_size, self.config.action_dim)
        return self.action_normalizer.unnormalize(actions)


def load(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    unnorm_key: str | None = None,
    num_images: int | None = None,
    use_proprio: bool | None = None,
    **overrides: Any,
) -> OpenVLAOFTPolicy:
    """Load a checkpoint in the released layout, strictly and without running code of it.

    Args:
        path: Directory, or Hugging Face hub id.
        dtype: Of the parameters: ``torch.float32`` or ``torch.bfloat16``.
        device: Of the parameters.
        unnorm_key: Data set whose statistics to use, ``"libero_10"`` or ``"robotwin2_lift_pot_1k"`` for example. May
            be left out if the checkpoint has those of one, or if no actions are to be decoded.
        num_images: Camera images per observation. None: what the checkpoint says; released ones say nothing, which
            means 1.
        use_proprio: Whether the state is read. None: what the checkpoint says, else whether it has the weights.
        **overrides: Further arguments of `OpenVLAOFTPolicy.from_pretrained`, and fields of `OpenVLAOFTConfig` that win
            over the checkpoint, e.g. ``chunk_size=5``.

    Raises:
        FileNotFoundError, CheckpointError, ValueError: The message says what is wrong and what to do.
    """
    return OpenVLAOFTPolicy.from_pretrained(
        path,
        unnorm_key,
        dtype=dtype,
        device=device,
        num_images=num_images,
        use_proprio=use_proprio,
        **overrides,
    )
