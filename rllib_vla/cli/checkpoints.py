"""Finding checkpoints and telling whole ones from damaged ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from rllib_vla.cli.problems import readable_path

MANIFEST = ".manifest.json"
_METADATA = "rllib_checkpoint.json"
_NAME = re.compile(r"checkpoint_(\d+)$")
_PICKLE_STOP = b"."


def write_manifest(checkpoint: Path) -> None:
    """Records the size of every file of a complete checkpoint, so that later damage is noticed."""
    sizes = {name: path.stat().st_size for name, path in _files(checkpoint)}
    temporary = checkpoint / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(sizes, indent=1))
    temporary.replace(checkpoint / MANIFEST)


def check_checkpoint(path: Path) -> str | None:
    """Returns what is wrong with a checkpoint of an RLlib algorithm, None if it is complete.

    Sizes are compared with the manifest written beside them. Without one (a crash came in between, or another
    program wrote the checkpoint) the structure is checked: metadata, state files, no pickle cut off.
    """
    if not path.is_dir():
        return f"no such checkpoint directory: {readable_path(path)}"
    if not (path / _METADATA).is_file():
        return f"{readable_path(path)} is no RLlib checkpoint ({_METADATA} is missing)"
    manifest = path / MANIFEST
    if manifest.is_file():
        try:
            expected = json.loads(manifest.read_text())
        except json.JSONDecodeError:
            return f"{readable_path(manifest)} is damaged"
        sizes = {name: file.stat().st_size for name, file in _files(path)}
        for name, size in expected.items():
            if sizes.get(name) != size:
                found = f"{sizes[name]} instead of {size} bytes" if name in sizes else "missing"
                return f"{readable_path(path)} is incomplete: {name} is {found}"
    else:
        for directory in (path, path / "learner_group" / "learner"):
            if directory.is_dir() and not list(directory.glob("*state.*")):
                return f"{readable_path(path)} is incomplete: no state file in {directory.name}"
    for name, file in _files(path):
        if file.suffix == ".pkl" and not _ends_with(file, _PICKLE_STOP):
            return f"{readable_path(path)} is damaged: {name} is cut off"
    return None


def checkpoints_newest_first(trial_dir: Path) -> Iterator[Path]:
    """Yields the checkpoint directories of one trial, complete or not."""
    found = [(int(match[1]), path) for path in trial_dir.iterdir() if (match := _NAME.match(path.name))]
    for _, path in sorted(found, reverse=True):
        yield path


def newest_valid_checkpoint(trial_dir: Path) -> tuple[Path | None, list[str]]:
    """Returns the newest complete checkpoint of a trial and why newer ones were passed over."""
    reasons = []
    for path in checkpoints_newest_first(trial_dir):
        message = check_checkpoint(path)
        if message is None:
            return path, reasons
        reasons.append(message)
    return None, reasons


def _files(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(MANIFEST):
            yield path.relative_to(checkpoint).as_posix(), path


def _ends_with(path: Path, suffix: bytes) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(suffix)))
        return file.read() == suffix
