"""Stand-ins for operations that GPUs run as one kernel: shapes on the meta device, without intermediate results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor


class Count:
    """Floating-point operations of attention, which PyTorch's counter does not see here."""

    flops = 0.0


@contextmanager
def fused_operations() -> Iterator[Count]:
    """Replaces PyTorch's attention and root-mean-square norm while the context lasts, and counts the former's work."""
    count = Count()

    def attend(q: Tensor, k: Tensor, v: Tensor, **mask) -> Tensor:
        return _Attention.apply(q, k, v, count)

    def normalize(x: Tensor, shape, *, eps: float) -> Tensor:
        return _Norm.apply(x)

    functions = {"scaled_dot_product_attention": attend, "rms_norm": normalize}
    with mock.patch.multiple("torch.nn.functional", **functions):
        yield count


class _Attention(torch.autograd.Function):
    """No matrix of all pairs; inputs, output and row sums are kept.

    Two matrix products forward, five backward (the first one is computed again).
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, count: Count) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device))
        ctx.count, ctx.flops = count, 4 * q.numel() * k.shape[2]
        count.flops += ctx.flops
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, *_ = ctx.saved_tensors
        ctx.count.flops += 2.5 * ctx.flops
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


class _Norm(torch.autograd.Function):
    """No float32 copy of what is computed in bfloat16; input and one factor per row are kept."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return torch.empty_like(grad)
