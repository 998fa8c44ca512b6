"""Low-rank adapters (LoRA, arXiv 2106.09685), put into a loaded model from outside.

A linear layer `y = W x + b` becomes `y = W x + b + alpha / rank * B A x`; only A and B are trained. Released parameter
names stay as they are, adapters add `<layer>.lora_A` and `<layer>.lora_B`. Adapters are float32 whatever the weights
are (small optimizer steps would be lost in bfloat16) and are computed in the dtype of the layer's input.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.openvla_oft.configuration import nearest
from policies.openvla_oft.modeling import OpenVLAOFT

ALL_LINEAR = "all-linear"
LORA_SUFFIXES = (".lora_A", ".lora_B")
LINEAR_LAYERS = (
    *("qkv", "proj", "fc1", "fc2", "fc3"),  # vision towers and projectors
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # language model
)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which layers get adapters, and of what size. Defaults are those of the SimpleVLA-RL reference.

    Attributes:
        rank: Inner dimension of the adapters.
        alpha: Adapters are scaled by `alpha / rank`.
        target: "all-linear": every linear layer that the policy computes except the output head; or a tuple of
            layer names out of `LINEAR_LAYERS`.
        dropout: Must be 0. Sampler and learner compare log-probabilities of two forward passes, which dropout would
            make differ.
    """

    rank: int = 32
    alpha: float = 32.0
    target: str | tuple[str, ...] = ALL_LINEAR
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, numbers.Integral) or self.rank < 1:
            raise ValueError(f"`lora.rank` must be a whole number of at least 1, is {self.rank!r}")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, numbers.Real) or not self.alpha > 0:
            raise ValueError(f"`lora.alpha` must be a positive number, is {self.alpha!r}")
        if self.dropout != 0:
            raise ValueError(
                f"`lora.dropout` must be 0, is {self.dropout!r}: the importance ratio compares two forward passes, "
                "which dropout would make differ"
            )
        names = () if self.target == ALL_LINEAR else self.target
        if isinstance(names, str) or not isinstance(names, list | tuple) or (not names and self.target != ALL_LINEAR):
            raise ValueError(f"`lora.target` must be '{ALL_LINEAR}' or a list of layer names, is {self.target!r}")
        for name in names:
            if name not in LINEAR_LAYERS:
                raise ValueError(f"`lora.target`: unknown layer {name!r}; {nearest(name, LINEAR_LAYERS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoRAConfig:
        """The configuration that a mapping describes.

        Raises:
            ValueError: Not a mapping, an unknown key (the nearest valid one is named), or a value out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"`lora` must be a mapping such as {{rank: 32, alpha: 32}}, is {values!r}")
        valid = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in valid:
                raise ValueError(f"`lora`: unknown key {key!r}; {nearest(key, valid)}")
        return cls(**values)


class LoRALinear(nn.Linear):
    """A linear layer with an adapter; it shares weight and bias with the layer that it replaces.

    Args:
        linear: The layer; its parameters are frozen.
        rank: Inner dimension of the adapter.
        scale: Factor of the adapter's output.
        generator: Draws A from a normal distribution with standard deviation `1 / rank`; B is zero, so that the
            adapted model starts as the model itself.
    """

    def __init__(self, linear: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        device = linear.weight.device
        self.scale = scale
        self.lora_A = nn.Parameter(torch.randn(rank, linear.in_features, generator=generator).div_(rank).to(device))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        weight, kind = self.weight, x.device.type
        bias: Tensor | None = self.bias
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return _AdaptedLinear.apply(x, weight, bias, self.lora_A, self.lora_B, self.scale)
        # Autocast reaches neither products in place nor the backward pass of a function of one's own.
        dtype = torch.get_autocast_dtype(kind)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            return _AdaptedLinear.apply(x.to(dtype), weight.to(dtype), bias, self.lora_A, self.lora_B, self.scale)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer with the adapter added to its weight; the sum is taken in float32 and rounded once."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        weight = torch.addmm(self.weight.float(), self.lora_B, self.lora_A, alpha=self.scale)
        linear.weight = nn.Parameter(weight.to(self.weight.dtype))
        linear.bias = self.bias
        return linear


class _AdaptedLinear(torch.autograd.Function):
    """`x W' + b + scale x A' B'` of a frozen layer: three matrix products forward, five backward, little besides.

    Left to autograd, the sum of both paths, its scale and the sum of their gradients take as many operations again,
    each over whole activations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        inner = F.linear(x, a)
        out = F.linear(x, weight, bias)
        out.view(-1, out.shape[-1]).addmm_(inner.flatten(0, -2), b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, a, b, inner = ctx.saved_tensors
        grad = grad.flatten(0, -2)
        grad_inner = grad @ (ctx.scale * b)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ weight).addmm_(grad_inner, a).view(x.shape)
        grad_a = grad_inner.t() @ x.flatten(0, -2)
        grad_b = grad.t() @ (ctx.scale * inner.flatten(0, -2))
        return grad_x, None, None, grad_a, grad_b, None  # autograd gives the last two the adapters' own dtype


def add_lora(model: OpenVLAOFT, config: LoRAConfig) -> None:
    """Put adapters into `model` in place and freeze everything else.

    Every process draws the same A, so that only what was trained has to be sent around.

    Raises:
        ValueError: The model has adapters already.
    """
    if lora_state_dict(model):
        raise ValueError("the model has LoRA adapters already: merge them first")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, linear in _target_layers(model, config).items():
        _replace(model, name, LoRALinear(linear, config.rank, config.alpha / config.rank, generator))


def merge_lora(model: OpenVLAOFT) -> None:
    """Turn every adapter of `model` into weights, in place; all parameters are trainable again."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            _replace(model, name, module.merged())
    model.requires_grad_(True)


class MergedWeights(Mapping[str, Tensor]):
    """The state dict of a model as if its adapters were merged; the model is left as it is.

    A sum is computed when it is read and not kept, so that a model can be saved where a second one does not fit.
    """

    def __init__(self, model: OpenVLAOFT) -> None:
        self._plain = {key: value for key, value in model.state_dict().items() if not key.endswith(LORA_SUFFIXES)}
        self._adapted = {
            f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, LoRALinear)
        }

    def __getitem__(self, key: str) -> Tensor:
        layer = self._adapted.get(key)
        return self._plain[key] if layer is None else layer.merged().weight.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)


def lora_state_dict(model: OpenVLAOFT) -> dict[str, Tensor]:
    """The adapters' parameters by name; empty for a model without adapters."""
    return {key: value for key, value in model.state_dict().items() if key.endswith(LORA_SUFFIXES)}


def _target_layers(model: OpenVLAOFT, config: LoRAConfig) -> dict[str, nn.Linear]:
    idle = {id(module) for part in model.idle_parts() for module in part.modules()}
    names = LINEAR_LAYERS if config.target == ALL_LINEAR else config.target
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in names and id(module) not in idle
    }


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, layer.train(model.training))
