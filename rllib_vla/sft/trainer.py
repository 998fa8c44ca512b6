"""Supervised fine-tuning of OpenVLA-OFT on discrete action tokens, in plain PyTorch.

The same loop runs in one process and in each worker of a data-parallel run (`rllib_vla.sft.workers`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from policies.openvla_oft import OpenVLAOFTPolicy
from policies.openvla_oft.lora import MergedWeights, merge_lora
from rllib_vla.distributed.parallelize import Parallelism, parallelize
from rllib_vla.sft.batches import Batch, BatchSource
from rllib_vla.sft.config import FULL_VOCABULARY, SFTConfig
from rllib_vla.sft.dataset import ChunkDataset
from rllib_vla.sft.loss import action_bin_loss, full_vocabulary_loss
from rllib_vla.sft.training_state import STATE_FILE, load_training_state, save_training_state
from rllib_vla.sft.workers import Workers

logger = logging.getLogger(__name__)

_SUMS = ("loss", "token_accuracy", "gradient_norm")


def learning_rate(config: SFTConfig, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then `config.schedule`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant_then_decay":
        decayed = step >= config.decay_at * config.num_steps
        return config.lr * (config.final_lr_fraction if decayed else 1.0)
    progress = (step - config.warmup_steps) / max(1, config.num_steps - 1 - config.warmup_steps)
    low = config.final_lr_fraction
    return config.lr * (low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * progress)))


class SFTTrainer:
    """Trains a policy on windows of demonstrations.

    Every random number of step k (which windows, how they are augmented) depends on the seed and k only. So a
    run that was interrupted and resumed gives the same weights as one that was not, and the training state
    needs no generator states.

    Attributes:
        step: Optimizer steps done.
        best: Result of the best evaluation so far (``step``, ``success_rate``), None before the first.

    Args:
        config: Settings.
        policy: Policy whose model is trained in place; with `config.lora`, its adapters are.
        dataset: Training windows.
        workers: This process's place in a data-parallel run.
    """

    def __init__(
        self, config: SFTConfig, policy: OpenVLAOFTPolicy, dataset: ChunkDataset, workers: Workers | None = None
    ) -> None:
        self.config = config
        self.policy = policy
        self.dataset = dataset
        self.workers = workers or Workers()
        self.device = training_device(config.device)
        self.model = policy.model.to(self.device).train()
        if config.gradient_checkpointing:
            parallelize(self.model, Parallelism(activation_checkpointing=True))
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, config.weight_decay), lr=config.lr, betas=config.betas, fused=True
        )
        self.ema = {k: v.detach().clone() for k, v in self._trained()} if config.ema_decay else {}
        self.step = 0
        self.best: dict[str, float] | None = None
        self._batches = BatchSource(config, dataset, self.device, self.workers)
        self._loss = full_vocabulary_loss if config.loss == FULL_VOCABULARY else action_bin_loss

    @property
    def state_path(self) -> Path:
        """File of the resumable training state."""
        return Path(self.config.output_dir) / STATE_FILE

    def fit(
        self,
        *,
        until: int | None = None,
        on_log: Callable[[dict[str, float]], None] | None = None,
        after_step: Callable[[SFTTrainer], dict[str, float] | None] | None = None,
    ) -> None:
        """Trains up to step `until` (default: the configured number of steps) from the current step on.

        Args:
            until: Stop before this step; the schedule still spans the whole run.
            on_log: Called with the scalars of each progress line.
            after_step: Called after each step, before the training state is saved; what it returns is logged.
        """
        config, is_first = self.config, self.workers.is_first
        last = config.num_steps if until is None else min(until, config.num_steps)
        writer = None
        if is_first:
            # What an interrupted run logged after its last state, or an earlier run in this folder, is hidden: all
            # points from `purge_step` on. That of the current step was written before the state.
            writer = SummaryWriter(Path(config.output_dir) / "tensorboard", purge_step=self.step + 1)
        started, first_step = time.monotonic(), self.step
        sums, since_log = dict.fromkeys(_SUMS, 0.0), 0
        try:
            while self.step < last:
                lr = learning_rate(config, self.step)
                for name, value in self.train_step(lr).items():
                    sums[name] += value
                since_log += 1
                scalars: dict[str, float] = {}
                if self.step % config.log_every_steps == 0 or self.step == last:
                    scalars = {name: value / since_log for name, value in sums.items()} | {"lr": lr}
                    sums, since_log = dict.fromkeys(_SUMS, 0.0), 0
                    if is_first:
                        self._log_progress(scalars, (self.step - first_step) / (time.monotonic() - started))
                        if on_log is not None:
                            on_log(scalars | {"step": self.step})
                if after_step is not None:
                    scalars |= after_step(self) or {}
                for name, value in scalars.items() if writer is not None else ():
                    writer.add_scalar(f"sft/{name}", value, self.step)
                every = config.checkpoint_every_steps
                if is_first and (self.step == last or (every and self.step % every == 0)):
                    self.save_state()
        finally:
            self._batches.clear()
            if writer is not None:
                writer.close()

    def _log_progress(self, scalars: dict[str, float], rate: float) -> None:
        logger.info(
            "step %d/%d  loss %.3f  token accuracy %.3f  lr %.2e  %.1f steps/s  %s to go",
            *(self.step, self.config.num_steps, scalars["loss"], scalars["token_accuracy"], scalars["lr"], rate),
            _duration((self.config.num_steps - self.step) / rate),
        )

    def train_step(self, lr: float) -> dict[str, float]:
        """One optimizer step on the next batch; returns its loss, token accuracy and gradient norm.

        Raises:
            FloatingPointError: The gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = accuracy_sum = 0.0
        for batch in self._batches.batch(self.step):
            share = len(batch["bins"]) / self.config.batch_size
            loss, accuracy = self._forward(batch)
            (share * loss).backward()
            loss_sum += share * loss.item()
            accuracy_sum += share * accuracy.item()
        parameters = [parameter for _, parameter in self._trained()]
        self.workers.sum_gradients(parameters)
        loss_sum, accuracy_sum = self.workers.sum_values([loss_sum, accuracy_sum], self.device)
        largest = math.inf if self.config.grad_clip is None else self.config.grad_clip
        norm = torch.nn.utils.clip_grad_norm_(parameters, largest).item()
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"gradient norm {norm} at step {self.step} (loss {loss_sum}): lower 'lr' or check the data"
            )
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return {"loss": loss_sum, "token_accuracy": accuracy_sum, "gradient_norm": norm}

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and accuracy of one micro-batch."""
        inputs = {name: value for name, value in batch.items() if name != "bins"}
        with self.autocast():
            return self._loss(self.model, inputs, batch["bins"])

    def autocast(self) -> torch.autocast:
        """Context in which the model computes in `config.precision`."""
        bfloat16 = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16)

    # --- moving average, checkpoints -----------------------------------------------------------------------

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def _update_average(self) -> None:
        """Moving average whose decay rises from 0.1, so that the first steps are soon forgotten."""
        if self.ema:
            decay = min(self.config.ema_decay, (1.0 + self.step) / (10.0 + self.step))
            for name, parameter in self._trained():
                self.ema[name].lerp_(parameter, 1.0 - decay)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchanges the weights and their average; a second call undoes the first, bit for bit."""
        if self.ema:
            for name, parameter in self._trained():
                weights = parameter.clone()
                parameter.copy_(self.ema[name])
                self.ema[name].copy_(weights)

    def save_policy(self, path: Path) -> None:
        """Writes a checkpoint in the released layout: averaged weights if there are any, adapters merged.

        The model in training is left as it is.
        """
        dtype = getattr(torch, self.config.save_dtype)
        self.swap_average()
        try:
            state = None if self.config.lora is None else MergedWeights(self.model)
            self.policy.save_pretrained(path, state_dict=state, dtype=dtype)
        finally:
            self.swap_average()

    def finish(self) -> OpenVLAOFTPolicy:
        """Puts the averaged weights (if there are any) into the policy, merges adapters, and returns it for use."""
        if self.ema:
            self.model.load_state_dict(self.ema, strict=False)
        if self.config.lora is not None:
            merge_lora(self.model)
        self.model.eval()
        return self.policy

    def save_state(self) -> None:
        """Writes the resumable training state (atomically: a reader sees the old file or the new one).

        Weights that are not trained are left out: they are those of `config.model_path`.
        """
        save_training_state(
            self.state_path,
            step=self.step,
            config=self.config.to_dict(),
            data_digest=self.dataset.digest,
            model={name: parameter.detach() for name, parameter in self._trained()},
            optimizer=self.optimizer.state_dict(),
            ema=self.ema,
            best=self.best,
        )

    def load_state(self) -> None:
        """Continues from the training state in the output folder.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It was written under other settings or with other data, or the file is damaged.
        """
        state = load_training_state(self.state_path, self.config, data_digest=self.dataset.digest)
        self._load_trained(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.best = state.get("best")
        self.step = state["step"]

    @torch.no_grad()
    def _load_trained(self, weights: dict[str, torch.Tensor]) -> None:
        trained = dict(self._trained())
        if missing := trained.keys() - weights.keys():
            raise ValueError(f"{self.state_path} lacks {sorted(missing)[:3]} …: delete it to start anew")
        for name, parameter in trained.items():
            parameter.copy_(weights[name])


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for matrices only: pulling norm gains, biases and embeddings to zero helps nobody."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
    ids = {id(p) for p in decayed}
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": [p for _, p in named if id(p) not in ids], "weight_decay": 0.0},
    ]


def training_device(name: str) -> torch.device:
    """The device that `SFTConfig.device` means; in a worker of Ray Train, the GPU that it was given."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
