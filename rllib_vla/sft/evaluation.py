"""Greedy evaluation between optimizer steps, and the choice of the best policy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import envs
from rllib_vla.evaluation.evaluator import evaluate_policy
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.sft.config import SFTConfig

if TYPE_CHECKING:
    from rllib_vla.sft.trainer import SFTTrainer

logger = logging.getLogger(__name__)


def evaluation_protocol(config: SFTConfig) -> EvaluationProtocol:
    """What `config.evaluation` plays, once it is clear that it can be played.

    Raises:
        ValueError: Suite, split, task or a setting of the environment does not exist; names the nearest one that does.
        UnavailableError: The suite needs something that is not there.
    """
    settings = config.evaluation
    tasks = settings.tasks or config.tasks
    protocol = EvaluationProtocol(
        suite=settings.suite or config.suite,
        split=settings.split,
        tasks=None if tasks is None else tuple(tasks),
        num_scenes_per_task=settings.num_scenes_per_task,
    )
    protocol.episodes(settings.env_config)
    envs.make_spaces(protocol.suite, **settings.env_config)
    return protocol


class BestCheckpoint:
    """Evaluates the policy when it is due, and keeps the best one as the run's checkpoint.

    The checkpoint is written as soon as a policy is better than all before, so at any time it holds the best so far. In
    a data-parallel run the first worker plays while the others wait.

    Args:
        config: Settings; `evaluation` must be there.
        target: Folder of the checkpoint.
    """

    def __init__(self, config: SFTConfig, target: Path) -> None:
        self._config = config
        self._target = target

    def __call__(self, trainer: SFTTrainer) -> dict[str, float] | None:
        """To be called after each optimizer step.

        Returns:
            Success rate of this evaluation and of the best one, None if none was due.
        """
        settings = self._config.evaluation
        if trainer.step % settings.every_steps and trainer.step != self._config.num_steps:
            return None
        success = trainer.workers.from_first(self._play(trainer) if trainer.workers.is_first else None)
        if trainer.best is None or success > trainer.best["success_rate"]:
            trainer.best = {"step": trainer.step, "success_rate": success}
            if trainer.workers.is_first:
                trainer.save_policy(self._target)
        logger.info(
            "evaluation at step %d: success %.3f (best %.3f at step %d)",
            *(trainer.step, success, trainer.best["success_rate"], trainer.best["step"]),
        )
        return {"evaluation_success_rate": success, "evaluation_best": trainer.best["success_rate"]}

    def _play(self, trainer: SFTTrainer) -> float:
        settings, policy = self._config.evaluation, trainer.policy
        protocol = evaluation_protocol(self._config)
        trainer.swap_average()
        try:
            with trainer.autocast():  # frozen weights may be in another type than those that are trained
                report = evaluate_policy(
                    policy, protocol, env_config=settings.env_config, num_simulators=settings.num_simulators
                )
        finally:
            trainer.swap_average()
            policy.model.train()
            # Simulators in this process may have changed it.
            torch.set_flush_denormal(True)
        return report.overall.success_rate
