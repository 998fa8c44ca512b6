"""What a configuration trains on: its reader, tasks and demonstrations, and the windows made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import envs
from envs.base import unknown_name
from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.sft.config import NO_GRIPPER, SFTConfig
from rllib_vla.sft.dataset import ChunkDataset
from rllib_vla.sft.demonstrations import (
    Demonstration,
    DemonstrationReader,
    open_demonstrations,
    select_demonstrations,
)
from rllib_vla.sft.demonstrations.loading import Selection, find_format
from rllib_vla.sft.frames import cached_frames, prepare_frames
from rllib_vla.sft.workers import Workers


@dataclass(frozen=True)
class TrainingData:
    """The demonstrations of a run, without their frames.

    Attributes:
        reader: Where they come from.
        tasks: Names of the tasks.
        selection: (task, name) of those that are trained on.
        demonstrations: The same ones.
        for_statistics: Those whose actions make the statistics.
    """

    reader: DemonstrationReader
    tasks: list[str]
    selection: Selection
    demonstrations: list[Demonstration]
    for_statistics: list[Demonstration]


def read_training_data(config: SFTConfig) -> TrainingData:
    """Reads and checks every demonstration that a run needs, except for its frames.

    Raises:
        FileNotFoundError, DemonstrationError, ValueError: One of them, or a setting, cannot be used.
    """
    reader = open_reader(config)
    tasks = task_names(config, reader)
    selection = select(config, reader, tasks)
    demonstrations = [reader.read(*item, frames=False) for item in selection]
    for_statistics = demonstrations
    if config.statistics_from_all_demos:
        known = dict(zip(selection, demonstrations, strict=True))  # not read again
        every = select_demonstrations(reader, tasks)
        for_statistics = [known[item] if item in known else reader.read(*item, frames=False) for item in every]
    return TrainingData(reader, tasks, selection, demonstrations, for_statistics)


def open_reader(config: SFTConfig) -> DemonstrationReader:
    """The reader of ``config.demos_dir``.

    Raises:
        FileNotFoundError, DemonstrationError, ValueError: There is nothing that could be read, or `demos` or
            `instructions` name a task that does not exist.
    """
    layout = find_format(config.demos_dir) if config.demos_format == "auto" else config.demos_format
    suite_instructions = {}
    options = {}
    if layout == "lerobot":
        options["rotate"] = config.rotate_frames
        if config.suite is not None:
            suite_instructions = {info.name: info.instruction for info in envs.list_tasks(config.suite)}
    elif config.rotate_frames:
        raise ValueError("'rotate_frames' is for LeRobot data sets: other layouts say which way up their frames are")
    convention = None if config.gripper_convention == NO_GRIPPER else config.gripper_convention
    reader = open_demonstrations(
        config.demos_dir,
        layout,
        camera=config.camera,
        instructions=suite_instructions | config.instructions,
        gripper_convention=convention,
        **options,
    )
    for key, tasks in (("demos", config.demos), ("instructions", config.instructions)):
        for task in tasks:
            valid = dict.fromkeys([*task_names(config, reader), *reader.tasks(), *suite_instructions])
            if task not in valid:
                raise unknown_name(f"task in '{key}'", task, valid)
    return reader


def task_names(config: SFTConfig, reader: DemonstrationReader) -> list[str]:
    """The tasks to train on."""
    if config.tasks is not None:
        return list(config.tasks)
    return [info.name for info in envs.list_tasks(config.suite)] if config.suite else reader.tasks()


def select(config: SFTConfig, reader: DemonstrationReader, tasks: list[str]) -> Selection:
    """The demonstrations to train on."""
    return select_demonstrations(
        reader,
        tasks,
        demos_per_task=config.demos_per_task,
        seed=config.seed if config.subset_seed is None else config.subset_seed,
        listed=config.demos,
    )


def make_dataset(config: SFTConfig, data: TrainingData, policy: OpenVLAOFTPolicy, workers: Workers) -> ChunkDataset:
    """The windows of `data`, whose frames are prepared, or found in the cache; workers wait for the first one's."""
    augmented = config.augmentation.enabled
    cache_dir = config.cache_dir
    if cache_dir is None and workers.size > 1:
        cache_dir = str(Path(config.output_dir) / "frames")
    if cache_dir is None:
        read = (data.reader.read(*item) for item in data.selection)
        frames = prepare_frames(read, policy, augmented=augmented)
    else:
        what = (data.reader, data.selection, data.demonstrations, policy)
        where = {"augmented": augmented, "cache_dir": cache_dir}
        if workers.is_first:
            cached_frames(*what, **where)
        workers.from_first(None)  # the others wait, then find the file
        frames = cached_frames(*what, **where)
    return ChunkDataset(
        data.demonstrations,
        policy,
        augmented=augmented,
        first_windows=config.first_windows,
        first_window_repeats=config.first_window_repeats,
        frames=frames,
    )
