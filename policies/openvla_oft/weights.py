"""Weights of checkpoint directories: reading strictly and tensor by tensor, writing shard by shard.

Only safetensors files are read; a separate proprio projector is unpickled, and nothing but plain tensors.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from policies.openvla_oft.checkpoint import (
    INDEX,
    OTHER_HEADS,
    SINGLE,
    CheckpointError,
    other_head_error,
    read_json,
    shorten,
    write_json,
)

MAX_SHARD_BYTES = 5 * 10**9
PROPRIO_PREFIX = "proprio_projector."
Shapes = dict[str, tuple[int, ...]]


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
        CheckpointError: None there, or some that the index names are missing.
    """
    if (directory / INDEX).is_file():
        weight_map = read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{directory / INDEX} has no weight_map: copy or download the file again")
        names = sorted(set(weight_map.values()))
        missing = [name for name in names if Path(name).name != name or not (directory / name).is_file()]
        if missing:
            raise CheckpointError(f"{directory} is incomplete, {INDEX} names files not in it: {', '.join(missing)}")
        return [directory / name for name in names]
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    raise CheckpointError(
        f"{directory} has no {SINGLE} and no {INDEX}. Pickled weights (*.bin, *.pt) are not read: convert "
        "them with safetensors.torch.save_file"
    )


@contextmanager
def _opened(file: Path, device: str = "cpu") -> Iterator[Any]:
    try:
        handle = safe_open(file, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({error}): copy or download it again") from error
    with handle:
        yield handle


def stored_shapes(directory: Path) -> Shapes:
    """Shape of every stored tensor, from the file headers only."""
    shapes: Shapes = {}
    for file in weight_files(directory):
        with _opened(file) as handle:
            shapes |= {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()}  # noqa: SIM118
    return shapes


def stored_dtypes(directory: Path) -> set[str]:
    """Data types of the stored tensors, as safetensors spells them (``"F32"``, ``"BF16"``), from the file headers."""
    dtypes: set[str] = set()
    for file in weight_files(directory):
        with _opened(file) as handle:
            dtypes |= {handle.get_slice(key).get_dtype() for key in handle.keys()}  # noqa: SIM118
    return dtypes


def proprio_projector_file(directory: Path) -> Path | None:
    """The separate proprio projector of a supervised release, if there is one.

    Raises:
        CheckpointError: Several.
    """
    files = sorted(p for p in directory.glob("*proprio_projector*") if "checkpoint" in p.name and p.is_file())
    if len(files) > 1:
        names = ", ".join(p.name for p in files)
        raise CheckpointError(
            f"{directory} has several proprio projectors ({names}): keep the one that belongs to the weights"
        )
    return files[0] if files else None


def has_proprio_weights(directory: Path) -> bool:
    """Whether the checkpoint holds a proprio projector, inside its weights or as a separate file."""
    return proprio_projector_file(directory) is not None or any(
        key.startswith(PROPRIO_PREFIX) for key in stored_shapes(directory)
    )


def load_weights(
    model: nn.Module,
    directory: Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    new_proprio: nn.Module | None = None,
) -> None:
    """Fill a model that was built on the meta device, tensor by tensor.

    Peak memory is the model plus one tensor; what is mapped of the files, at most one shard, can be reclaimed.

    Args:
        model: On the meta device.
        directory: Checkpoint directory.
        dtype: Of the parameters after loading.
        device: Of the parameters after loading.
        new_proprio: Proprio projector for a model that needs one where the checkpoint has none.

    Raises:
        CheckpointError: Missing, unexpected or mis-shaped tensors; all are listed.
    """
    for key, rows in stored_rows(shapes_of(model), directory, new_proprio):
        _assign(model, key, rows[:], dtype, device)


def shapes_of(model: nn.Module) -> Shapes:
    """Names and shapes of the tensors that `model` needs."""
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def check_tensors(expected: Shapes, directory: Path, new_proprio: nn.Module | None = None) -> dict[str, Tensor]:
    """Compares names and shapes of what a checkpoint stores with what a model needs; no weights are read.

    Returns:
        Tensors of a proprio projector that the weights do not hold: of a file of their own, or of `new_proprio`.

    Raises:
        CheckpointError: Missing, unexpected or mis-shaped tensors; all are listed.
    """
    wants_proprio = any(key.startswith(PROPRIO_PREFIX) for key in expected)
    stored = stored_shapes(directory)
    separate: dict[str, Tensor] = {}
    if wants_proprio and not any(key.startswith(PROPRIO_PREFIX) for key in stored):
        if new_proprio is not None and proprio_projector_file(directory) is None:
            separate = {PROPRIO_PREFIX + key: value for key, value in new_proprio.state_dict().items()}
        else:
            separate = _read_proprio_projector(directory)
        stored |= {key: tuple(value.shape) for key, value in separate.items()}
    if not wants_proprio:
        stored = {key: shape for key, shape in stored.items() if not key.startswith(PROPRIO_PREFIX)}
    _compare(expected, stored, directory)
    return separate


def stored_rows(expected: Shapes, directory: Path, new_proprio: nn.Module | None = None) -> Iterator[tuple[str, Any]]:
    """The stored tensors of a model of these shapes, each to be read by slicing before the next is asked for.

    Raises:
        CheckpointError: Missing, unexpected or mis-shaped tensors; all are listed, before anything is read.
    """
    separate = check_tensors(expected, directory, new_proprio)
    for file in weight_files(directory):
        with _opened(file) as handle:
            for key in handle.keys():  # noqa: SIM118
                if key in expected:
                    yield key, handle.get_slice(key)
    for key, tensor in separate.items():
        yield key, tensor


def _assign(model: nn.Module, key: str, tensor: Tensor, dtype: torch.dtype, device: str | torch.device) -> None:
    # A copy: tensors of a safetensors file are views of the mapped file.
    tensor = tensor.to(device=device, dtype=dtype, copy=True)
    owner, _, name = key.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(tensor))


def _read_proprio_projector(directory: Path) -> dict[str, Tensor]:
    file = proprio_projector_file(directory)
    if file is None:
        raise CheckpointError(
            f"{directory} has no proprio projector, neither proprio_projector.* tensors nor a "
            "proprio_projector--<step>_checkpoint.pt: load it with use_proprio=False, or add the file"
        )
    refusal = f"{file} holds something else than plain tensors by name, or is damaged: not loaded"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(refusal) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(refusal)
    return {PROPRIO_PREFIX + key.removeprefix("module."): value for key, value in state.items()}


def _compare(expected: Shapes, stored: Shapes, directory: Path) -> None:
    lines = []
    missing = sorted(expected.keys() - stored.keys())
    unexpected = sorted(stored.keys() - expected.keys())
    heads = [key for key in unexpected if key.startswith(OTHER_HEADS)]
    if heads:
        raise other_head_error(directory, heads)
    wrong = sorted(key for key in expected.keys() & stored.keys() if expected[key] != stored[key])
    for title, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            lines.append(f"{len(keys)} {title}: " + shorten(keys))
    if wrong:
        lines.append(
            f"{len(wrong)} mis-shaped: "
            + shorten([f"{k} {list(stored[k])} instead of {list(expected[k])}" for k in wrong])
        )
    if lines:
        raise CheckpointError(
            f"{directory} does not hold an OpenVLA-OFT model of the size its config.json describes:\n  "
            + "\n  ".join(lines)
        )


def _on_host(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()


def save_weights(
    directory: Path,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors as one safetensors file, or as shards when they exceed `max_shard_bytes`; an index says where.

    One shard at a time is held in host memory. Every tensor is read twice, and none is kept: they may be computed.
    """
    shards: list[list[str]] = [[]]
    size = total = 0
    for key in sorted(state):
        tensor = state[key]
        item = (dtype or tensor.dtype).itemsize * math.prod(tensor.shape)
        if shards[-1] and size + item > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += item
        total += item
    weight_map: dict[str, str] = {}
    for i, keys in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        tensors = {key: _on_host(state[key], dtype) for key in keys}
        save_file(tensors, directory / name, metadata={"format": "pt"})
        (directory / name).chmod(0o644)  # safetensors makes files that only their owner can read
        weight_map |= dict.fromkeys(keys, name)
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
