"""Which demonstrations are used: the reader of a folder, and subsets by seed or by list."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllib_vla.sft.demonstrations.demonstration import Demonstration, DemonstrationError
from rllib_vla.sft.demonstrations.lerobot import INFO, LeRobotReader
from rllib_vla.sft.demonstrations.libero_hdf5 import FILE_SUFFIX, LiberoHDF5Reader
from rllib_vla.sft.demonstrations.reader import DemonstrationReader
from rllib_vla.sft.demonstrations.robotwin_hdf5 import RoboTwinHDF5Reader

READERS: dict[str, type[DemonstrationReader]] = {
    "libero_hdf5": LiberoHDF5Reader,
    "robotwin_hdf5": RoboTwinHDF5Reader,
    "lerobot": LeRobotReader,
}
AUTO_FORMAT = "auto"
Selection = list[tuple[str, str]]  # (task, name of the demonstration)


def existing_folder(directory: str | Path) -> Path:
    """A folder of demonstrations, with ``~`` expanded.

    Raises:
        FileNotFoundError: There is none; names it as it was written.
    """
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"No folder of demonstrations {directory}")
    return path


def find_format(directory: str | Path) -> str:
    """The layout of the files in a folder.

    Raises:
        FileNotFoundError: There is no such folder, or nothing in it that a reader knows.
    """
    directory = existing_folder(directory)
    if (directory / INFO).is_file():
        return "lerobot"
    if next(directory.glob(f"*{FILE_SUFFIX}"), None):
        return "libero_hdf5"
    if RoboTwinHDF5Reader(directory).tasks():
        return "robotwin_hdf5"
    raise FileNotFoundError(
        f"No demonstrations in {directory}: expected <task>{FILE_SUFFIX} (LIBERO), {INFO} (LeRobot) or "
        "<task>/…/episode<i>.hdf5 (RoboTwin)"
    )


def open_demonstrations(directory: str | Path, layout: str = AUTO_FORMAT, **options: Any) -> DemonstrationReader:
    """The reader of a folder.

    Args:
        directory: Where the demonstrations are.
        layout: A key of `READERS`, or ``"auto"``: found out from the files.
        **options: Arguments of the reader.

    Raises:
        FileNotFoundError, DemonstrationError: There is nothing that could be read.
    """
    directory = existing_folder(directory)
    layout = find_format(directory) if layout == AUTO_FORMAT else layout
    return READERS[layout](directory, **options)


def select_demonstrations(
    reader: DemonstrationReader,
    tasks: Sequence[str],
    *,
    demos_per_task: int | None = None,
    seed: int = 0,
    listed: Mapping[str, Sequence[str]] | None = None,
) -> Selection:
    """Chooses demonstrations, without reading them.

    Which ones are drawn depends on the seed and on the task's own name only: adding a task changes nothing for the
    others, and ``n`` demonstrations are always part of the ``m > n`` of the same seed, so that a data-scarcity curve
    compares nested sets. One per task is the paper's "traj1" setting.

    Args:
        reader: The data set.
        tasks: Names of the tasks.
        demos_per_task: How many to draw at random per task; None takes all.
        seed: Seed of the draw.
        listed: Names of the demonstrations by task; a task that is not listed follows `demos_per_task`.

    Raises:
        DemonstrationError: A task has fewer demonstrations than asked for, or not the listed ones.
        FileNotFoundError: A task has none; the message says which tasks have.
    """
    selection: Selection = []
    for task in tasks:
        names = reader.names(task)
        where = f"task {task!r} in {reader.directory}"
        if listed and task in listed:
            absent = [name for name in listed[task] if name not in names]
            if absent:
                raise DemonstrationError(
                    f"{where} has no demonstration {absent[0]!r} that `demos` lists; it has {names[0]} … {names[-1]}"
                )
            names = list(listed[task])
        elif demos_per_task is not None:
            if demos_per_task > len(names):
                raise DemonstrationError(
                    f"{where} has {len(names)} demonstrations, {demos_per_task} were asked for: "
                    "lower `demos_per_task`, or record more"
                )
            order = np.random.default_rng([seed, zlib.crc32(task.encode())]).permutation(len(names))
            names = [names[i] for i in order[:demos_per_task]]
        selection += [(task, name) for name in names]
    return selection


def load_demonstrations(
    directory: str | Path,
    tasks: list[str],
    *,
    demos_per_task: int | None = None,
    seed: int = 0,
    layout: str = AUTO_FORMAT,
    **options: Any,
) -> list[Demonstration]:
    """Reads demonstrations of several tasks with their frames: `open_demonstrations` and `select_demonstrations`."""
    reader = open_demonstrations(directory, layout, **options)
    chosen = select_demonstrations(reader, tasks, demos_per_task=demos_per_task, seed=seed)
    return [reader.read(task, name) for task, name in chosen]
