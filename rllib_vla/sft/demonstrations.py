"""Demonstrations: one in-memory form, and the reader of LIBERO's HDF5 layout.

Everything behind a reader sees upright uint8 frames, actions in the simulator's own units and the instruction
in plain words, whatever the file looked like.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

CAMERA = "agentview_rgb"
# What makes up the proprioception, in this order: end-effector position and axis-angle [6], finger positions [2].
PROPRIO_KEYS = ("ee_states", "gripper_states")
FILE_SUFFIX = "_demo.hdf5"


class DemonstrationError(ValueError):
    """A demonstration file that cannot be trained on; the message names the file, the demo and the key."""


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of a task.

    Attributes:
        task: Name of the task, for example ``"lift_red_cube"``.
        instruction: What the robot was asked to do.
        frames: Upright camera frames before each action, ``[T, H, W, 3] uint8``.
        actions: Actions in the simulator's units (LIBERO: OSC_POSE deltas, gripper -1 open / +1 close),
            ``[T, D] float32``.
        proprio: Proprioception before each action, ``[T, P] float32``; None if the file has none.
        source: File and group that it was read from, for messages.
    """

    task: str
    instruction: str
    frames: np.ndarray
    actions: np.ndarray
    proprio: np.ndarray | None
    source: str

    def __len__(self) -> int:
        """Number of control steps T."""
        return len(self.actions)


def read_libero_hdf5(path: str | Path, *, demos: list[str] | None = None, camera: str = CAMERA) -> list[Demonstration]:
    """Reads the demonstrations of one task from a file in LIBERO's HDF5 layout.

    LIBERO stores frames rotated by 180 degrees; they are rotated back here, which is what
    ``frame[::-1, ::-1]`` does in every OpenVLA evaluation script.

    Args:
        path: ``<task>_demo.hdf5``.
        demos: Names of the groups to read (``["demo_3", …]``); None reads all.
        camera: Name of the frames under ``obs``.

    Returns:
        The demonstrations in the order of `demos`, or in rising order of their number.

    Raises:
        DemonstrationError: A group, key or attribute is missing, shapes disagree, or an action is not finite.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No demonstration file {path}")
    task = path.name.removesuffix(FILE_SUFFIX)
    with h5py.File(path, "r") as file:
        data = _child(file, "data", path.name)
        instruction = _instruction(data, path.name)
        names = _demo_names(data) if demos is None else demos
        return [_read_demo(_child(data, name, path.name), task, instruction, camera) for name in names]


def load_demonstrations(
    directory: str | Path,
    tasks: list[str],
    *,
    demos_per_task: int | None = None,
    seed: int = 0,
    camera: str = CAMERA,
) -> list[Demonstration]:
    """Reads a subset of the demonstrations of several tasks.

    Which demonstrations are taken depends on the seed and on the task's own name only: adding a task changes
    nothing for the others, and ``n`` demonstrations are always part of the ``m > n`` of the same seed, so
    that a data-scarcity curve compares nested sets. One per task is the paper's "traj1" setting.

    Args:
        directory: Folder with one ``<task>_demo.hdf5`` per task.
        tasks: Names of the tasks.
        demos_per_task: How many to draw at random per task; None takes all.
        seed: Seed of the draw.
        camera: Name of the frames under ``obs``.

    Raises:
        DemonstrationError: A file is damaged or holds fewer demonstrations than asked for.
        FileNotFoundError: A task has no file; the message says which ones there are.
    """
    directory = Path(directory)
    loaded = []
    for task in tasks:
        path = directory / f"{task}{FILE_SUFFIX}"
        if not path.is_file():
            present = sorted(p.name.removesuffix(FILE_SUFFIX) for p in directory.glob(f"*{FILE_SUFFIX}"))
            raise FileNotFoundError(
                f"No demonstrations of task {task!r} in {directory}; it has {present or 'none at all'}"
            )
        with h5py.File(path, "r") as file:
            names = _demo_names(_child(file, "data", path.name))
        if demos_per_task is not None:
            if demos_per_task > len(names):
                raise DemonstrationError(f"{path} has {len(names)} demonstrations, {demos_per_task} were asked for")
            order = np.random.default_rng([seed, zlib.crc32(task.encode())]).permutation(len(names))
            names = [names[i] for i in order[:demos_per_task]]
        loaded += read_libero_hdf5(path, demos=names, camera=camera)
    return loaded


def _read_demo(group: h5py.Group, task: str, instruction: str, camera: str) -> Demonstration:
    """Reads and checks one ``demo_<i>`` group."""
    source = f"{Path(group.file.filename).name}:{group.name}"
    actions = np.asarray(_child(group, "actions", source), dtype=np.float32)
    observations = _child(group, "obs", source)
    frames = np.asarray(_child(observations, camera, f"{source}/obs"))
    if actions.ndim != 2:
        raise DemonstrationError(f"{source}/actions has shape {actions.shape}, expected [T, D]")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise DemonstrationError(f"{source}/obs/{camera} is {frames.dtype} {frames.shape}, expected uint8 [T, H, W, 3]")
    if len(frames) != len(actions):
        raise DemonstrationError(f"{source} has {len(frames)} frames for {len(actions)} actions")
    bad = np.flatnonzero(~np.isfinite(actions).all(axis=1))
    if bad.size:
        raise DemonstrationError(f"{source}/actions is not finite at step {bad[0]} ({bad.size} such steps)")
    proprio = None
    if all(key in observations for key in PROPRIO_KEYS):
        proprio = np.concatenate([observations[key] for key in PROPRIO_KEYS], axis=1, dtype=np.float32)
        if proprio.shape[0] != len(actions) or not np.isfinite(proprio).all():
            raise DemonstrationError(f"{source}/obs: {' and '.join(PROPRIO_KEYS)} are not finite [T, P] arrays")
    upright = np.ascontiguousarray(frames[:, ::-1, ::-1])
    return Demonstration(task, instruction, upright, actions, proprio, source)


def _instruction(data: h5py.Group, where: str) -> str:
    """The instruction in the ``problem_info`` attribute (a list of words in some LIBERO releases)."""
    if "problem_info" not in data.attrs:
        raise DemonstrationError(f"{where}:/data has no attribute 'problem_info'")
    info = json.loads(data.attrs["problem_info"])
    if "language_instruction" not in info:
        raise DemonstrationError(f"{where}:/data problem_info has no 'language_instruction'")
    text = info["language_instruction"]
    return (text if isinstance(text, str) else " ".join(text)).strip().strip('"')


def _demo_names(data: h5py.Group) -> list[str]:
    """``demo_<i>`` groups in rising order of i (HDF5 lists them as text: demo_10 before demo_2)."""
    names = [name for name in data if name.startswith("demo_")]
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def _child(group: h5py.Group, key: str, where: str):
    if key not in group:
        raise DemonstrationError(f"{where} has no {key!r}; it has {sorted(group)}")
    return group[key]
