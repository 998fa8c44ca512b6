"""Sizes of a policy without its weights: built and run on PyTorch's meta device, where tensors have shapes only.

Counts are exact. Memory is that of the very operations a forward and backward pass execute: every tensor is counted
while it lives, the peak is kept. Attention and norms are taken as fused operations, which is what GPUs run.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from policies.openvla_oft import OpenVLAOFTConfig, lora_state_dict
from policies.openvla_oft.configuration import AUTOREGRESSIVE
from policies.openvla_oft.modeling import OpenVLAOFT
from policies.openvla_oft.policy import make_model
from rllib_vla.cli.fused_operations import fused_operations
from rllib_vla.rl_modules.openvla_oft_rl_module import choose_trained_parts


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """What a policy is made of.

    Attributes:
        num_parameters: All, adapters included.
        num_trained: Those that get gradients.
        weight_bytes: All parameters in the types they are computed with.
        trained_bytes: The trained ones in these types.
        largest_block_bytes: The largest repeated layer: what FSDP2 gathers at a time.
        num_sent: Parameters that travel to runners and into checkpoints (adapters, or all).
    """

    num_parameters: int
    num_trained: int
    weight_bytes: int
    trained_bytes: int
    largest_block_bytes: int
    num_sent: int


@dataclasses.dataclass(frozen=True)
class PassCost:
    """One forward pass, or forward and backward pass, of a batch.

    Attributes:
        peak_bytes: Most memory that activations and intermediate results take at a time; weights, gradients and inputs
            not counted.
        flops: Floating-point operations (a multiplication and an addition are two).
    """

    peak_bytes: int
    flops: int


def build_model(config: OpenVLAOFTConfig, model_config: Mapping[str, Any]) -> OpenVLAOFT:
    """The network on the meta device, as a learner trains it; what is never computed has no gradient and no moments.

    Args:
        config: Its sizes.
        model_config: `dtype`, `lora` and `freeze` of the RLModule.
    """
    dtype = getattr(torch, model_config.get("dtype", "float32"))
    with torch.device("meta"):
        model = make_model(config).to(dtype)
    for part in model.idle_parts():
        part.requires_grad_(False)
    choose_trained_parts(model, model_config)
    return model


def measure_size(model: OpenVLAOFT) -> ModelSize:
    """Counts parameters and their bytes."""
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    sent = lora_state_dict(model) or model.state_dict()
    return ModelSize(
        num_parameters=sum(p.numel() for p in parameters),
        num_trained=sum(p.numel() for p in trained),
        weight_bytes=_bytes(parameters),
        trained_bytes=_bytes(trained),
        largest_block_bytes=max(_bytes(block.parameters()) for block in model.blocks()),
        num_sent=sum(t.numel() for t in sent.values()),
    )


def measure_sampling(model: OpenVLAOFT, num_rows: int, prompt_length: int) -> PassCost:
    """One batched policy call of an environment runner."""
    inputs = make_inputs(model.config, num_rows, prompt_length)
    inputs.pop("bins", None)  # what is decided here
    with fused_operations() as attention, torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model.generate(_pick, **inputs)
        attention_flops = attention.flops
        with _LiveMemory() as memory:
            model.generate(_pick, **inputs)
    return PassCost(memory.peak, int(counter.get_total_flops() + attention_flops))


def measure_training(model: OpenVLAOFT, num_rows: int, prompt_length: int, *, recompute: bool) -> PassCost:
    """Forward and backward pass of one micro-batch, gradients being accumulated into those of earlier ones.

    Args:
        model: On the meta device.
        num_rows: Model calls of the micro-batch.
        prompt_length: Tokens of the prompt, padding included.
        recompute: Activation checkpointing of every block.
    """
    inputs = make_inputs(model.config, num_rows, prompt_length)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with _recomputation(model) if recompute else _nothing(), fused_operations() as attention:
        with FlopCounterMode(display=False) as counter:
            training_loss(model(**inputs)).backward()
        attention_flops = attention.flops
        with _LiveMemory() as memory:
            training_loss(model(**inputs)).backward()
    return PassCost(memory.peak, int(counter.get_total_flops() + attention_flops))


def _pick(logits: Tensor, first: int) -> Tensor:
    return logits.argmax(dim=-1)


def training_loss(logits: Tensor) -> Tensor:
    """Stands for the objective: keeps what the real one keeps of the logits: log-probabilities of all bins."""
    return torch.log_softmax(logits, dim=-1)[..., 0].sum()


def make_inputs(config: OpenVLAOFTConfig, num_rows: int, prompt_length: int) -> dict[str, Tensor]:
    """A batch of model calls on the meta device."""
    size = config.image_size
    inputs = {
        "images": torch.empty(num_rows, config.num_images, size, size, 3, dtype=torch.uint8, device="meta"),
        "input_ids": torch.empty(num_rows, prompt_length, dtype=torch.int64, device="meta"),
        "attention_mask": torch.empty(num_rows, prompt_length, dtype=torch.bool, device="meta"),
    }
    if config.use_proprio:
        inputs["proprio"] = torch.empty(num_rows, config.proprio_dim, device="meta")
    if config.decoding == AUTOREGRESSIVE:
        inputs["bins"] = torch.empty(num_rows, config.num_action_tokens, dtype=torch.int64, device="meta")
    return inputs


def _bytes(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _recomputation(model: OpenVLAOFT) -> Iterator[None]:
    """Activation checkpointing of every block while the context lasts."""
    blocks = model.blocks()
    for block in blocks:
        forward = block.forward
        block.forward = lambda *args, forward=forward: checkpoint(
            forward, *args, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


class _LiveMemory(TorchDispatchMode):
    """Adds up the bytes of all tensors that come into being while the mode is on, and notices when they go.

    Attributes:
        peak: The most bytes alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._storages = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {id(t.untyped_storage()) for t in args if isinstance(t, Tensor)}
        tree_map_only(Tensor, lambda t: self._see(t, given), result)
        return result

    def _see(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        if storage in self._storages or id(storage) in given:  # a view, or written in place
            return
        size = storage.nbytes()
        self._storages[storage] = size
        weakref.finalize(storage, self._gone, size)
        self._live += size
        self.peak = max(self.peak, self._live)

    def _gone(self, size: int) -> None:
        self._live -= size
