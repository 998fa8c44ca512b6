"""Weights between shards, whole tensors and the numpy arrays in which they travel.

bfloat16 travels as it is: numpy does not know the type, so its bit patterns go as int16. No weight is ever widened to
float32 on the way.
"""

from collections.abc import Mapping
from types import EllipsisType

import numpy as np
import torch
import torch.distributed as dist

from policies.openvla_oft.checkpoint import resolve
from policies.openvla_oft.lora import LORA_SUFFIXES
from policies.openvla_oft.weights import stored_rows
from rllib_vla.distributed.gradients import is_sharded, local_part


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy of `tensor` as an array; bfloat16 becomes int16 bit patterns."""
    tensor = tensor.detach().to("cpu", copy=True)
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """What `to_numpy` returned as a tensor of the original type."""
    # A copy: arrays from Ray's object store are read-only.
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor


@torch.no_grad()
def load_full(own: Mapping[str, torch.Tensor], state: Mapping[str, np.ndarray]) -> None:
    """Copies whole arrays into tensors or shards of the same names, rounding to their types.

    Each process takes its part of the arrays it was given: no communication.

    Raises:
        RuntimeError: A shape differs.
    """
    for name, array in state.items():
        target, value = own[name], from_numpy(array)
        if target.shape != value.shape:
            raise RuntimeError(f"{name}: {tuple(value.shape)} instead of {tuple(target.shape)}")
        local_part(target).copy_(value[own_rows(target)])


def travelling_dtypes(weights: Mapping[str, torch.Tensor], compute_dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The types of a runner's weights: adapters are float32, counters what they are, the rest in the compute type."""
    adapters = {name: torch.float32 for name in weights if name.endswith(LORA_SUFFIXES)}
    counters = {name: tensor.dtype for name, tensor in weights.items() if not tensor.is_floating_point()}
    return dict.fromkeys(weights, compute_dtype) | adapters | counters


@torch.no_grad()
def gather(
    weights: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    into: dict[str, np.ndarray] | None,
) -> dict[str, np.ndarray] | None:
    """Collects sharded weights on the first learner, one tensor at a time; all learners must call it together.

    Shards are rounded to the type they travel in before they are gathered, which halves the traffic of float32 master
    weights in bfloat16. At no time does a device hold more than one whole tensor.

    Args:
        weights: Sharded or whole tensors.
        dtypes: Type in which each travels.
        device: Device of the collective operations.
        into: Arrays of the last call, which are filled again; None: new ones.

    Returns:
        Arrays as `to_numpy` makes them on the first learner, None on the others.
    """
    is_first = dist.get_rank() == 0
    arrays = into if into is not None else {}
    for name, tensor in weights.items():
        whole = full_tensor(tensor.detach(), dtypes[name], device)
        if not is_first:
            continue
        bits = whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole
        if name in arrays:
            torch.from_numpy(arrays[name]).copy_(bits)
        else:
            arrays[name] = to_numpy(bits)
    return arrays if is_first else None


def full_tensor(tensor: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The whole of a (sharded) tensor on `device`; a collective operation if it is sharded."""
    if not is_sharded(tensor):
        return tensor.to(device, dtype)
    from torch.distributed.tensor import DTensor, Replicate

    local = tensor.to_local().to(device, dtype)
    # With off-loading the shard lies on the CPU while the mesh, and the communication, are those of the GPUs.
    shard = DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
    return shard.redistribute(placements=[Replicate()] * tensor.device_mesh.ndim).to_local()


@torch.no_grad()
def fill_from_files(model: torch.nn.Module, path: str) -> None:
    """Fills the shards of a model that was built and sharded on the meta device, from the files of a checkpoint.

    Each process reads its own rows only: eight learners on one node do not need eight models of host memory.

    Args:
        model: Sharded, with memory (`model.to_empty`) but without values.
        path: Checkpoint directory or hub id.
    """
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    for name, stored in stored_rows(shapes, resolve(path)):
        local_part(parameters[name]).copy_(stored[own_rows(parameters[name])])


def own_rows(tensor: torch.Tensor) -> slice | EllipsisType:
    """Index of what this process holds of a tensor: all, or for FSDP2's shards its chunk of the first dimension."""
    if not is_sharded(tensor):
        return ...  # also of a scalar
    num_rows = tensor.shape[0]
    per_shard = -(-num_rows // tensor.device_mesh.size())
    first = min(tensor.device_mesh.get_local_rank() * per_shard, num_rows)
    return slice(first, min(first + per_shard, num_rows))
