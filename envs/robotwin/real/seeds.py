"""Which seeds of a RoboTwin task are its training and evaluation scenes.

Not every seed can be solved: objects may fall or lie out of reach. So SimpleVLA-RL and RLinf come with lists of seeds
that RoboTwin's expert solved. Their files are read here, and `rllib seeds` writes such files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.base import UnavailableError
from envs.robotwin.real.checkout import Checkout

# Scenes that SimpleVLA-RL trains on and evaluates on.
MAX_SCENES = {"train": 1000, "eval": 128}
# Where SimpleVLA-RL starts to look for seeds.
FIRST_SEEDS = {1: {"train": 100_000, "eval": 100_000_000}, 2: {"train": 100_000, "eval": 100_100_000}}
# Lists of a task in a seed file -> what the expert made of the seeds in them, of `robotwin_child.main.OUTCOMES`.
_OUTCOME_OF_LIST = {
    "success_seeds": "success",
    "setup_demo_fail_seeds": "setup_demo_fail",
    "play_once_fail_seeds": "play_once_fail",
    "not_success_seeds": "not_success",
}
# Without a list, a scene is the first of so many seeds whose objects come to rest.
CANDIDATES_PER_SCENE = 20


class SeedsError(UnavailableError):
    """There are no seeds for a task; the message says what to do."""


class SeedLists:
    """The seeds of all tasks of a checkout.

    Args:
        checkout: The checkout; SimpleVLA-RL's overlay has lists in its folder `seeds`.
        seeds_path: Folder with the two files of `file_names`; or one such file of any name, whose seeds are for
            evaluation if "eval" is in its name, else for training; or None: the checkout's own folder.
        unverified: Use seeds that nobody has tried, for tasks without a list.
        num_train: Largest number of training scenes of a task.

    Raises:
        SeedsError: `seeds_path` has no such files, or they cannot be read.
    """

    def __init__(
        self,
        checkout: Checkout,
        seeds_path: str | os.PathLike | None = None,
        unverified: bool = False,
        num_train: int = MAX_SCENES["train"],
    ):
        self._version = checkout.version
        self._most = {**MAX_SCENES, "train": num_train}
        self._unverified = unverified
        self._path = Path(seeds_path).expanduser() if seeds_path else checkout.root / "seeds"
        if seeds_path and not any(_find_file(self._path, self._version, split) for split in MAX_SCENES):
            names = " and ".join(file_names(self._version, split)[0] for split in MAX_SCENES)
            raise SeedsError(f"seeds_path is {str(seeds_path)!r}, but there are no {names} in it")

    def num_scenes(self, task: str, split: str) -> int:
        """Returns how many scenes a task has, 0 without a list."""
        verified = self._verified(task, split)
        return min(len(verified), self._most[split]) if verified else self._most[split] * self._unverified

    def candidates(self, task: str, split: str, index: int) -> list[int]:
        """Returns the seeds of a scene; the first one that can be set up is the scene. One, if it comes from a list."""
        verified = self._verified(task, split)
        if verified:
            return [verified[index]]
        first = FIRST_SEEDS[self._version][split] + index * CANDIDATES_PER_SCENE
        return list(range(first, first + CANDIDATES_PER_SCENE))

    def missing_message(self, task: str) -> str:
        """Returns what to do when a task has no scenes."""
        return (
            f"there are no seeds for task {task!r} in {self._path}: set env_config's 'seeds_path' to a folder with "
            f"{' and '.join(file_names(self._version, split)[0] for split in MAX_SCENES)} (SimpleVLA-RL has them for "
            f"21 tasks), make them with: rllib seeds robotwin {task}, or accept seeds that may not be solvable with "
            "'unverified_seeds: true'"
        )

    def _verified(self, task: str, split: str) -> tuple[int, ...]:
        path = _find_file(self._path, self._version, split)
        return read_seed_file(path).get(task, ()) if path else ()


def file_names(version: int, split: str) -> tuple[str, ...]:
    """Returns the names a seed file may have: that of SimpleVLA-RL, which is written, and RLinf's."""
    return (f"robotwin{version}_{split}_seeds.json", f"{split}_seeds.json")


@functools.lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int) -> Mapping[str, tuple[int, ...]]:
    with _as_seeds_error(path):
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {task: tuple(int(seed) for seed in entry["success_seeds"]) for task, entry in entries.items()}


@contextlib.contextmanager
def _as_seeds_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeedsError(
            f"cannot read the seeds in {path}: {error!r}. Expected {{task: {{'success_seeds': [...]}}}}"
        ) from error


def read_seed_file(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Returns the solved seeds of each task in a file. SeedsError if it is no seed file."""
    return _read(path, path.stat().st_mtime_ns)


def tried_seeds(path: Path, task: str) -> dict[int, str]:
    """Returns the outcome of each seed of a task that a file lists, if there is one; see `add_to_seed_file`.

    Raises:
        SeedsError: It is no seed file.
    """
    return _outcomes(path, _entries(path).get(task, {}))


def add_to_seed_file(path: Path, task: str, outcomes: Mapping[int, str]) -> None:
    """Adds seeds to the lists of a task in a seed file, which is made if there is none. What is there stays.

    Args:
        path: The file.
        task: Name of the task.
        outcomes: Of each tried seed, one of `robotwin_child.main.OUTCOMES`.

    Raises:
        SeedsError: `path` is no seed file; it is left as it is.
    """
    entries = _entries(path)
    entry = entries.get(task, {})
    before = _outcomes(path, entry)
    known = {**before, **outcomes}
    num_tried = entry.get("total_tried", len(before)) + len(known) - len(before)  # files may list solved ones alone
    entries[task] = {**entry, "task_name": task, "total_tried": num_tried} | {
        name: [seed for seed, outcome in known.items() if outcome == wanted]
        for name, wanted in _OUTCOME_OF_LIST.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def _entries(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    read_seed_file(path)  # refuses what is no seed file
    return json.loads(path.read_text(encoding="utf-8"))


def _outcomes(path: Path, entry: Mapping[str, Any]) -> dict[int, str]:
    with _as_seeds_error(path):
        return {int(seed): outcome for name, outcome in _OUTCOME_OF_LIST.items() for seed in entry.get(name, ())}


def _find_file(path: Path, version: int, split: str) -> Path | None:
    if path.is_file():
        return path if split == ("eval" if "eval" in path.name else "train") else None
    return next((path / name for name in file_names(version, split) if (path / name).is_file()), None)
