"""RLModule around OpenVLA-OFT: a policy without a value head.

Both forward passes that matter for learning, sampling (`forward_exploration`) and training (`forward_train`), turn
logits into log-probabilities through the same function at the same temperature, so that the importance ratio of
the first minibatch is 1 within rounding.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.annotations import override

from policies.openvla_oft import (
    LoRAConfig,
    OpenVLAOFT,
    OpenVLAOFTPolicy,
    add_lora,
    freeze,
    lora_state_dict,
    read_config,
)
from policies.openvla_oft.sampling import gather, greedy, log_probs_from_logits, sample_by_inverse_cdf
from rllib_vla.algorithms.grpo.default_grpo_rl_module import ALL_LOG_PROBS, DefaultGRPORLModule
from rllib_vla.columns import ATTENTION_MASK, IMAGES, INPUT_IDS, PROPRIO, SAMPLING_UNIFORMS
from rllib_vla.distributed.gradients import is_sharded
from rllib_vla.distributed.sharded_weights import load_full, to_numpy


def choose_trained_parts(model: OpenVLAOFT, model_config: Mapping[str, Any]) -> None:
    """Puts adapters into `model` and freezes parts of it, in place, as `lora` and `freeze` say.

    Raises:
        ValueError: For a setting that cannot be used with this model.
    """
    if model_config.get("lora") is not None:
        add_lora(model, LoRAConfig.from_dict(model_config["lora"]))
    freeze(model, model_config.get("freeze") or ())


class OpenVLAOFTRLModule(TorchRLModule, DefaultGRPORLModule):
    """OpenVLA-OFT with discrete action tokens as an RLModule.

    Reads from `model_config`:
        model_path (str): Checkpoint directory or hub id.
        unnorm_key (str | None): Which statistics of the checkpoint un-normalise the actions.
        temperature (float): Softmax temperature of exploration and training (set from `GRPOConfig.temperature`).
        dtype (str): "float32" or "bfloat16": the dtype of the weights, and of all computation with them.
        decoding (str | None): "autoregressive" if `model_path` is a released plain OpenVLA; None: as the checkpoint
            says, and released ones are OpenVLA-OFT ("parallel").
        lora (dict | None): `LoRAConfig` as a mapping: only low-rank adapters are trained, checkpointed and sent to
            the environment runners; the other weights are those of `model_path`.

        freeze (list[str] | None): Parts that are not trained, by name in the model, e.g. ["vision_backbone"].

    `weights_for_runners` is set by learners whose weights are sharded: `get_state` returns them, since one learner
    alone cannot put them together.

    Observations (batch[Columns.OBS]): `images` uint8 [B, n, S, S, 3], `input_ids` int64 [B, L] right-padded,
    `attention_mask` bool [B, L], and `proprio` float32 [B, P] where the checkpoint uses it.

    Actions (`Columns.ACTIONS`) are bins, int64 [B, N] in 0..255, N = chunk size x action dimensions. Exploration
    adds `Columns.ACTION_LOGP` float32 [B, N], one log-probability per token.
    """

    weights_for_runners: dict[str, np.ndarray] | None = None  # of the class: subclasses have a `setup` of their own

    @override(TorchRLModule)
    def setup(self) -> None:
        try:
            self.policy = OpenVLAOFTPolicy.from_pretrained(
                self.model_config["model_path"],
                unnorm_key=self.model_config.get("unnorm_key"),
                dtype=getattr(torch, self.model_config.get("dtype", "float32")),
                decoding=self.model_config.get("decoding"),
                # "meta": a sharded learner fills in its part of the weights itself.
                device=self.model_config.get("device", "cpu"),
            )
        except AttributeError as error:  # RLlib would mask it as a deprecated-constructor message
            raise RuntimeError(f"loading the policy failed: {error}") from error
        self.model = self.policy.model
        choose_trained_parts(self.model, self.model_config)
        self.temperature = float(self.model_config.get("temperature", 1.0))

    def action_logits(self, batch: dict[str, Any]) -> torch.Tensor:
        """Computes logits of all action tokens, float32 [B, N, 256].

        Tokens that decode one after the other (plain OpenVLA) see those of `batch[Columns.ACTIONS]` before them.
        """
        return self.model(**self._inputs(batch), bins=batch.get(Columns.ACTIONS))

    @override(TorchRLModule)
    def _forward_inference(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """Greedy decoding."""
        tokens, _ = self.model.generate(lambda logits, first: greedy(logits), **self._inputs(batch))
        return {Columns.ACTIONS: tokens}

    @override(TorchRLModule)
    def _forward_exploration(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """Samples every token at the rollout temperature, with a uniform number of its own."""

        def pick(logits: torch.Tensor, first: int) -> torch.Tensor:
            uniforms = batch[SAMPLING_UNIFORMS][:, first : first + logits.shape[1]]
            return sample_by_inverse_cdf(log_probs_from_logits(logits, self.temperature), uniforms)

        tokens, logits = self.model.generate(pick, **self._inputs(batch))
        return {
            Columns.ACTIONS: tokens,
            Columns.ACTION_LOGP: gather(log_probs_from_logits(logits, self.temperature), tokens),
        }

    @override(TorchRLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs) -> dict[str, torch.Tensor]:
        """Log-probabilities of all bins at the rollout temperature, with gradients."""
        return {ALL_LOG_PROBS: log_probs_from_logits(self.action_logits(batch), self.temperature)}

    def _inputs(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        obs = batch[Columns.OBS]
        return {name: obs[name] for name in (IMAGES, INPUT_IDS, ATTENTION_MASK, PROPRIO) if name in obs}

    @override(TorchRLModule)
    def get_state(self, components=None, *, not_components=None, inference_only=False, **kwargs):
        """Returns the weights (with LoRA: the adapters) as numpy arrays; bfloat16 travels as int16 bit patterns."""
        if self.weights_for_runners is not None:
            return self.weights_for_runners
        weights = self.weights()
        if any(is_sharded(tensor) for tensor in weights.values()):
            raise RuntimeError("The weights are sharded: only the first learner has them whole.")
        return {name: to_numpy(tensor) for name, tensor in weights.items()}

    @override(TorchRLModule)
    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Loads what `get_state` returned.

        Raises:
            RuntimeError: If names or shapes differ from this module's.
        """
        own = self.weights()
        if state.keys() != own.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise RuntimeError(
                f"The weights are not those of this module: {len(missing)} missing {missing[:3]}, {len(unknown)} "
                f"unknown {unknown[:3]}. Were they trained with another `model_path`, or another `lora` setting?"
            )
        load_full(own, state)

    @classmethod
    @override(DefaultGRPORLModule)
    def num_trained_parameters(cls, model_config: dict[str, Any]) -> int:
        if model_config.get("lora") is not None:
            return 0
        decoding = model_config.get("decoding")
        config = read_config(model_config["model_path"], model_config.get("unnorm_key"), decoding=decoding)
        with torch.device("meta"):
            model = OpenVLAOFT(config)
        freeze(model, model_config.get("freeze") or ())
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    @override(DefaultGRPORLModule)
    def weights(self) -> dict[str, torch.Tensor]:
        """The adapters if there are any, else everything."""
        return lora_state_dict(self.model) or self.model.state_dict()

    @override(DefaultGRPORLModule)
    def sequence_lengths(self, batch: dict[str, Any]) -> torch.Tensor:
        config = self.policy.config
        # Visual tokens, prompt, action slots, stop token.
        return batch[Columns.OBS][ATTENTION_MASK].sum(dim=1) + config.num_visual_tokens + config.num_action_tokens + 1

    @override(DefaultGRPORLModule)
    def trim_padding(self, batch: dict[str, Any]) -> dict[str, Any]:
        obs = batch[Columns.OBS]
        longest = int(obs[ATTENTION_MASK].sum(dim=1).max())
        trimmed = {name: obs[name][:, :longest] for name in (INPUT_IDS, ATTENTION_MASK)}
        return {**batch, Columns.OBS: {**obs, **trimmed}}
