"""One supervised fine-tuning run: demonstrations in, a checkpoint in the released layout out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rllib_vla.model_path import resolve_model_path
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.demonstrations.loading import existing_folder
from rllib_vla.sft.evaluation import BestCheckpoint, evaluation_protocol
from rllib_vla.sft.policy import make_policy
from rllib_vla.sft.trainer import SFTTrainer
from rllib_vla.sft.training_data import make_dataset, open_reader, read_training_data, select, task_names
from rllib_vla.sft.training_state import STATE_FILE, read_progress
from rllib_vla.sft.workers import Workers

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoint"
OnLog = Callable[[dict[str, float]], None]


def run_sft(config: SFTConfig, *, resume: bool = False, on_log: OnLog | None = None) -> Path:
    """Runs supervised fine-tuning from demonstrations to a checkpoint.

    Args:
        config: Settings. With `num_workers`, training runs in processes of Ray Train; Ray is started if it is not.
        resume: Continue from the training state in ``config.output_dir``.
        on_log: Called with the scalars of each progress line (in this process only).

    Returns:
        The checkpoint folder, ``<output_dir>/checkpoint``.

    Raises:
        FileExistsError: The output folder holds an unfinished run and `resume` is false.
        FileNotFoundError: Demonstrations, the checkpoint to start from, or the state to resume are missing.
        ValueError: Demonstrations or settings that cannot be used.
        UnavailableError: The simulator that `evaluation` plays in needs something that is not there.
        WorkerError: Training failed in one of several workers.
    """
    if not resume:
        refuse_unfinished_run(config)
    config = absolute_paths(config)
    if config.num_workers:
        from rllib_vla.sft.distributed import run_distributed

        # Mistakes that need no reading of whole files are found before any process is started.
        if config.evaluation:
            evaluation_protocol(config)
        reader = open_reader(config)
        select(config, reader, task_names(config, reader))
        return run_distributed(config, resume=resume)
    return train(config, resume=resume, on_log=on_log)


def train(
    config: SFTConfig, *, resume: bool = False, on_log: OnLog | None = None, workers: Workers | None = None
) -> Path:
    """Trains in this process, which may be one of several `workers`; see `run_sft`."""
    workers = workers or Workers()
    if config.evaluation and workers.is_first:
        evaluation_protocol(config)  # rather than hours later; the first worker plays
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Certain tokens have gradients too small for normal floats, and denormal arithmetic is many times slower.
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(config.seed)
    data = read_training_data(config)
    policy = make_policy(config, data.demonstrations, data.for_statistics)
    dataset = make_dataset(config, data, policy, workers)
    trainer = SFTTrainer(config, policy, dataset, workers)
    if resume:
        trainer.load_state()
        logger.info("resuming at step %d of %d", trainer.step, config.num_steps)
    elif workers.is_first:
        # If this run is killed before it saves its first state, an earlier run's must not be taken for it.
        trainer.state_path.unlink(missing_ok=True)
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    logger.info(
        "%d demonstrations of %d tasks, %d windows; %.2f M parameters, %.2f M of them trained",
        *(len(data.demonstrations), len(data.tasks), len(dataset)),
        *(sum(p.numel() for p in policy.model.parameters()) / 1e6, trained / 1e6),
    )
    started = time.monotonic()
    target = Path(config.output_dir) / CHECKPOINT_FOLDER
    best = BestCheckpoint(config, target) if config.evaluation else None
    trainer.fit(on_log=on_log, after_step=best)
    if best is None and workers.is_first:
        trainer.save_policy(target)
    logger.info("wrote %s after %.0f s", target, time.monotonic() - started)
    return target


def refuse_unfinished_run(config: SFTConfig) -> None:
    """Raises FileExistsError rather than training over the state of a run that was interrupted."""
    found = read_progress(Path(config.output_dir).expanduser() / STATE_FILE)
    if found is not None and found.step < found.num_steps:
        raise FileExistsError(
            f"{config.output_dir} holds a run that stopped at step {found.step} of {found.num_steps}: continue it with "
            "--resume, or delete it"
        )


def absolute_paths(config: SFTConfig) -> SFTConfig:
    """The configuration with absolute folders and checkpoint: it means the same in any working folder.

    Hub ids stay as they are.

    Raises:
        FileNotFoundError: There is no `demos_dir`, or no checkpoint at `model_path`; names it as it was written.
    """
    paths = {"demos_dir": str(existing_folder(config.demos_dir).resolve())}
    for name in ("output_dir", "cache_dir"):
        if (value := getattr(config, name)) is not None:
            paths[name] = str(Path(value).expanduser().resolve())
    if config.model_path is not None:
        paths["model_path"] = resolve_model_path(config.model_path)
    return dataclasses.replace(config, **paths)
