"""The resumable training state: one file, written atomically, refused when it belongs to other settings."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

# Settings that may differ between the run that stopped and the one that continues: none changes a number.
_FREE_KEYS = ("demos_dir", "output_dir", "log_every_steps", "checkpoint_every_steps", "save_dtype", "device")


def save_training_state(path: Path, **state: Any) -> None:
    """Writes `state` to `path` through a temporary file, so that a kill in between loses nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_training_state(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Reads a training state and checks that it was written under the settings `config`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or a setting that changes the result differs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Nothing to resume: no training state at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error
    different = {
        key: (state["config"].get(key), value)
        for key, value in config.items()
        if key not in _FREE_KEYS and state["config"].get(key) != value
    }
    if different:
        listed = ", ".join(f"{key}: {old!r} -> {new!r}" for key, (old, new) in different.items())
        raise ValueError(f"{path} was written under other settings ({listed}); delete it to start anew")
    return state


def read_progress(path: Path) -> int | None:
    """Step of the training state at `path`, or None if there is none (the tensors are mapped, not read)."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to start anew") from error
