"""The resumable training state: one file, written atomically, refused when it belongs to other settings or data."""

from __future__ import annotations

import contextlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rllib_vla.model_path import resolve_model_path
from rllib_vla.sft.config import SFTConfig

STATE_FILE = "training_state.pt"  # in the output folder
# Settings that may differ between the run that stopped and the one that continues: none changes a number, except that
# another device or number of workers rounds differently. What the demonstrations hold is checked by their digest.
_FREE_KEYS = (
    *("demos_dir", "output_dir", "cache_dir", "log_every_steps", "checkpoint_every_steps", "save_dtype"),
    *("device", "num_workers", "micro_batch_size", "prefetch_batches", "evaluation"),
)


class Progress(NamedTuple):
    """How far a run has come.

    Attributes:
        step: Optimizer steps done.
        num_steps: Optimizer steps of the whole run, as it was configured.
    """

    step: int
    num_steps: int


def save_training_state(path: Path, **state: Any) -> None:
    """Writes `state` to `path` through a temporary file, so that a kill in between loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_training_state(
    path: Path, config: SFTConfig, *, data_digest: str | None = None, mmap: bool = False
) -> dict[str, Any]:
    """Reads a training state and checks that it was written under the settings `config`.

    Results of evaluations under other settings cannot be compared, so they are forgotten.

    Args:
        path: The file.
        config: Settings of the run that continues.
        data_digest: `ChunkDataset.digest` of its data; None does not compare them.
        mmap: Map the tensors instead of reading them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or a setting that changes the result, or the data, differ.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Nothing to resume: no training state at {path}")
    state = _read(path, mmap)
    now = _comparable(config)
    before = _comparable(SFTConfig.from_dict(state["config"]))  # newer settings than the state get their defaults
    different = {key: (before[key], now[key]) for key in now if key not in _FREE_KEYS and before[key] != now[key]}
    if different:
        listed = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in different.items())
        raise ValueError(f"{path} was written under other settings ({listed}); delete it to start anew")
    if data_digest is not None and state.get("data_digest", data_digest) != data_digest:  # older states have none
        raise ValueError(
            f"{path} was written with other demonstrations than those in {config.demos_dir} (their actions, "
            "instructions or statistics differ): set 'demos_dir' to the former ones, or delete the file to start anew"
        )
    if before["evaluation"] != now["evaluation"]:
        state["best"] = None
    return state


def read_progress(path: Path) -> Progress | None:
    """Progress of the run whose training state is at `path`, or None if there is none (tensors are not read)."""
    if not path.is_file():
        return None
    state = _read(path, mmap=True)
    return Progress(state["step"], state["config"]["num_steps"])


def _read(path: Path, mmap: bool) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error


def _comparable(config: SFTConfig) -> dict[str, Any]:
    """Settings as plain values; the same checkpoint has the same path, however it was written."""
    values = config.to_dict()
    if config.model_path is not None:
        with contextlib.suppress(FileNotFoundError):  # that of a former run may be gone
            values["model_path"] = resolve_model_path(config.model_path)
    return values
