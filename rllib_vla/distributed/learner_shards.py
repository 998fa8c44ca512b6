"""Weights and optimizer state of sharded learners on disk: every learner writes its part, any number reads them.

The format is torch.distributed.checkpoint's: one file per learner and a `.metadata` file that says which rows of which
tensor lie where. Keys are `weights.<parameter>` and `optimizer.<parameter>.<moment>`.
"""

import threading
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor

from rllib_vla.checkpoints import SHARDS_INDEX, TrainingCheckpointError, file_entry

_WEIGHTS, _OPTIMIZER = "weights.", "optimizer."

NamedParameters = Iterable[tuple[str, torch.nn.Parameter]]


class ShardWriter:
    """Writes the shards of one learner in the background; all learners must make the same calls.

    Training goes on as soon as the tensors are copied to host memory.
    """

    def __init__(self) -> None:
        # Of its own: its collective operations must not mix with those of training, and NCCL does not serve the CPU.
        self._group = dist.new_group(backend="gloo")
        self._thread: threading.Thread | None = None
        self._error: TrainingCheckpointError | None = None
        self._entries: dict[str, dict[str, int]] = {}

    def start(self, state: Mapping[str, torch.Tensor], directory: Path) -> None:
        """Copies `state` to host memory and begins to write it; waits for the write before this one."""
        self._join()
        staged = {name: _to_host(tensor) for name, tensor in state.items()}
        self._entries, self._error = {}, None
        self._thread = threading.Thread(target=self._write, args=(staged, directory), daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> dict[str, dict[str, int]]:
        """Waits for the write under way. The outcome stays until the next one begins: learners are asked repeatedly.

        Returns:
            Manifest entries of the files that this learner wrote last, by name.

        Raises:
            TrainingCheckpointError: The write failed (for example on a full disk).
        """
        self._join()
        if self._error is not None:
            raise self._error
        return self._entries

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, staged: dict[str, torch.Tensor], directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            dcp.save(staged, storage_writer=dcp.FileSystemWriter(directory), process_group=self._group)
            rank = dist.get_rank()
            own = sorted(directory.glob(f"__{rank}_*.distcp")) + ([directory / SHARDS_INDEX] if rank == 0 else [])
            # While the file is still in the page cache, and on each node for itself.
            self._entries = {path.name: file_entry(path) for path in own}
        except (Exception, dcp.CheckpointException) as error:  # handed on to whoever waits
            self._error = TrainingCheckpointError(_describe(error))


def training_state(
    weights: Mapping[str, torch.Tensor], optimizer: torch.optim.Optimizer, parameters: NamedParameters
) -> dict[str, torch.Tensor]:
    """What `ShardWriter` writes: weights and the optimizer's moments, by parameter name."""
    state = {_WEIGHTS + name: tensor for name, tensor in weights.items()}
    for name, parameter in parameters:
        for moment, value in optimizer.state.get(parameter, {}).items():
            state[f"{_OPTIMIZER}{name}.{moment}"] = value
    return state


@torch.no_grad()
def load_training_state(
    directory: Path,
    weights: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    parameters: NamedParameters,
) -> None:
    """Loads what any number of learners wrote into whole tensors, or into this learner's shards.

    No communication: each process reads the rows it needs.

    Args:
        directory: Where the shards are.
        weights: Tensors to fill.
        optimizer: Gets the moments that were written, and no others.
        parameters: Trainable parameters by name.

    Raises:
        TrainingCheckpointError: Weights are missing, or of other shapes.
    """
    stored = _stored_names(directory)
    state = {_WEIGHTS + name: tensor for name, tensor in weights.items()}
    moments: dict[torch.nn.Parameter, dict[str, Any]] = {}
    for name, parameter in parameters:
        prefix = f"{_OPTIMIZER}{name}."
        own = {
            key.removeprefix(prefix): _empty_moment(key, parameter)
            for key in stored
            if key.startswith(prefix) and "." not in key.removeprefix(prefix)
        }
        if own:
            moments[parameter] = own
            state |= {prefix + moment: tensor for moment, tensor in own.items()}
    _load(state, directory)
    optimizer.state.clear()
    optimizer.state.update(moments)


def load_weights(directory: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Fills whole tensors from shards, without learners (for export and evaluation).

    Raises:
        TrainingCheckpointError: Weights are missing, or of other shapes.
    """
    state = {_WEIGHTS + name: tensor for name, tensor in weights.items()}
    _load(state, directory)


def _load(state: dict[str, torch.Tensor], directory: Path) -> None:
    try:
        # It says that it assumes a single process, which is what `no_dist` asks for.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            dcp.load(state, storage_reader=dcp.FileSystemReader(directory), no_dist=True)
    except (Exception, dcp.CheckpointException) as error:
        raise TrainingCheckpointError(f"{directory}: {_describe(error)}") from error


def _describe(error: BaseException) -> str:
    """One line; torch wraps what happened on each learner into an exception that is no `Exception`."""
    if isinstance(error, dcp.CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return f"{type(error).__name__}: {error}"


def _stored_names(directory: Path) -> set[str]:
    return set(dcp.FileSystemReader(directory).read_metadata().state_dict_metadata)


def _empty_moment(key: str, parameter: torch.nn.Parameter) -> torch.Tensor:
    # Adam counts its steps in a scalar, which its default implementation keeps on the CPU.
    return torch.zeros(()) if key.endswith(".step") else torch.zeros_like(parameter)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in host memory, also of what is there already: training goes on to change it."""
    if not isinstance(tensor, DTensor):
        return tensor.detach().to("cpu", copy=True)
    local = tensor.detach().to_local().to("cpu", copy=True)
    return DTensor.from_local(
        local, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )
