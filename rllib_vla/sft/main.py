"""`python -m rllib_vla.sft FILE.yaml`: demonstrations in, a checkpoint in the released layout out."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy
from rllib_vla.sft.config import SFTConfig, SFTConfigError
from rllib_vla.sft.dataset import ChunkDataset, demonstration_statistics
from rllib_vla.sft.demonstrations import DemonstrationError, load_demonstrations
from rllib_vla.sft.initialization import initialize_for_scratch_training
from rllib_vla.sft.trainer import SFTTrainer
from rllib_vla.sft.training_state import read_progress

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "checkpoint"


def run_sft(
    config: SFTConfig,
    *,
    resume: bool = False,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Runs supervised fine-tuning from demonstrations to a checkpoint.

    Args:
        config: Settings.
        resume: Continue from the training state in ``config.output_dir``.
        on_log: Called with the scalars of each progress line.

    Returns:
        The checkpoint folder, ``<output_dir>/checkpoint``.

    Raises:
        FileExistsError: The output folder holds an unfinished run and `resume` is false.
        FileNotFoundError: Demonstrations, the checkpoint to start from, or the state to resume are missing.
        ValueError: Demonstrations or settings that cannot be used.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    # Certain tokens have gradients too small for normal floats, and denormal arithmetic is many times slower.
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(config.seed)
    demonstrations = load_demonstrations(
        config.demos_dir, config.tasks, demos_per_task=config.demos_per_task, seed=config.seed
    )
    policy = make_policy(config, demonstrations)
    dataset = ChunkDataset(
        demonstrations,
        policy,
        augmented=config.augmentation.enabled,
        first_windows=config.first_windows,
        first_window_repeats=config.first_window_repeats,
    )
    trainer = SFTTrainer(config, policy, dataset)
    done = read_progress(trainer.state_path)
    if resume:
        trainer.load_state()
        logger.info("resuming at step %d of %d", trainer.step, config.num_steps)
    elif done is not None and done < config.num_steps:
        raise FileExistsError(
            f"{config.output_dir} holds a run that stopped at step {done}: continue it with --resume, or delete it"
        )
    logger.info(
        "%d demonstrations of %d tasks, %d windows; %.2f M parameters",
        *(len(demonstrations), len(config.tasks), len(dataset)),
        sum(p.numel() for p in policy.model.parameters()) / 1e6,
    )
    started = time.monotonic()
    trainer.fit(on_log=on_log)
    target = Path(config.output_dir) / CHECKPOINT_FOLDER
    trainer.finish().save_pretrained(target, dtype=getattr(torch, config.save_dtype))
    logger.info("wrote %s after %.0f s", target, time.monotonic() - started)
    return target


def make_policy(config: SFTConfig, demonstrations: list) -> OpenVLAOFTPolicy:
    """The policy to train: from `config.init_from`, or with random weights of `config.preset`.

    A policy from a checkpoint keeps the statistics of `config.unnorm_key` if it has them, so that what it
    learned before stays valid; otherwise those of the demonstrations are added under that name.
    """
    if config.statistics_from_all_demos:
        demonstrations_for_statistics = load_demonstrations(config.demos_dir, config.tasks)
    else:
        demonstrations_for_statistics = demonstrations
    statistics = demonstration_statistics(demonstrations_for_statistics)
    if config.init_from is None:
        model_config = OpenVLAOFTConfig.preset(config.preset, **({"unnorm_key": config.unnorm_key} | config.policy))
        instructions = sorted({d.instruction for d in demonstrations})
        policy = OpenVLAOFTPolicy.from_scratch(
            model_config, instructions, {config.unnorm_key: statistics}, config.unnorm_key
        )
        initialize_for_scratch_training(policy.model)
        return policy
    policy = OpenVLAOFTPolicy.from_pretrained(config.init_from)
    policy.norm_stats.setdefault(config.unnorm_key, statistics)
    policy.unnorm_key = policy.config.unnorm_key = config.unnorm_key
    return policy


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rllib_vla.sft", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file with the settings of SFTConfig")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    try:
        run_sft(SFTConfig.from_yaml(options.file), resume=options.resume)
    except (SFTConfigError, DemonstrationError, FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; continue with --resume", file=sys.stderr)
        return 130
    return 0
