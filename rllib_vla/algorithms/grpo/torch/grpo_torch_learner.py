"""GRPO learner in PyTorch: minibatches of whole trajectories, micro-batches, the loss, and the optimizer step."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.torch_utils import convert_to_torch_tensor
from ray.rllib.utils.typing import ModuleID

from policies.openvla_oft.sampling import entropy as token_entropy
from policies.openvla_oft.sampling import gather
from rllib_vla import metrics as names
from rllib_vla.algorithms.grpo.default_grpo_rl_module import ALL_LOG_PROBS
from rllib_vla.algorithms.grpo.grpo_learner import GRPOLearner
from rllib_vla.algorithms.grpo.torch.grpo_loss import (
    categorical_kl,
    clipped_policy_loss,
    truncated_importance_weights,
)
from rllib_vla.algorithms.grpo.torch.importance import add_proximal_logp
from rllib_vla.algorithms.grpo.torch.micro_batches import plan_micro_batches, select_rows
from rllib_vla.columns import PROXIMAL_LOGP, TOKEN_MASK, TOKEN_WEIGHT, TRAJECTORY_INDEX
from rllib_vla.distributed.gradients import all_finite
from rllib_vla.distributed.parallel_learner import ParallelTorchLearner

logger = logging.getLogger("ray.rllib")


class NonFiniteUpdateError(RuntimeError):
    """Too many consecutive updates had a non-finite loss or gradient."""


class GRPOTorchLearner(ParallelTorchLearner, GRPOLearner):
    """Computes the GRPO loss and steps AdamW.

    A minibatch consists of whole trajectories; it is processed in micro-batches of `micro_batch_size` model calls, or
    of `micro_batch_tokens` tokens, whose gradients add up to exactly the minibatch's gradient. Batches stay on the CPU;
    one micro-batch at a time moves to the device.
    """

    # --- construction -----------------------------------------------------------------------------------------------

    @override(TorchLearner)
    def build(self) -> None:
        super().build()
        # Gradients of near-certain tokens are denormal numbers, which slow a CPU down many times.
        torch.set_flush_denormal(True)
        self._consecutive_nonfinite = 0
        self._is_first_minibatch = False

    @override(ParallelTorchLearner)
    def _map_module_to_device(self, module) -> None:
        self._reference = {}
        if self.config.kl_coeff > 0:
            for module_id, rl_module in module._rl_modules.items():
                self._reference[module_id] = copy.deepcopy(rl_module)
                self._reference[module_id].requires_grad_(False)
        super()._map_module_to_device(module)
        for reference in self._reference.values():
            self._prepare(reference)

    @override(TorchLearner)
    def configure_optimizers_for_module(self, module_id: ModuleID, config=None) -> None:
        params = self.get_parameters(self._module[module_id])
        optimizer = torch.optim.AdamW(
            params,
            betas=tuple(config.adam_betas),
            eps=config.adam_epsilon,
            weight_decay=config.weight_decay,
        )
        self.register_optimizer(module_id=module_id, optimizer=optimizer, params=params, lr_or_lr_schedule=config.lr)

    @override(TorchLearner)
    def get_parameters(self, module) -> list[torch.nn.Parameter]:
        return [p for p in module.parameters() if p.requires_grad]

    # --- minibatches ------------------------------------------------------------------------------------------------

    @property
    def version_before_update(self) -> int:
        """Number of the weights that the present update starts from; `update` counts itself at its beginning."""
        return self._weights_seq_no - 1

    @override(Learner)
    def update(self, *args, **kwargs):
        self._is_first_minibatch = True
        self._log_trainable_parameters()  # RLlib does so once, and then reports NaN
        if self.config.num_threads_for_update and self._device.type == "cpu":
            num_threads = torch.get_num_threads()
            torch.set_num_threads(self.config.num_threads_for_update)
            try:
                return super().update(*args, **kwargs)
            finally:
                torch.set_num_threads(num_threads)
        return super().update(*args, **kwargs)

    @override(Learner)
    def _create_iterator_if_necessary(
        self,
        *,
        training_data,
        num_total_minibatches: int = 0,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **kwargs,
    ) -> Iterator[MultiAgentBatch]:
        """Yields minibatches of `minibatch_size` whole trajectories: every trajectory once per epoch.

        RLlib's own iterator counts rows, cuts trajectories apart and repeats rows to fill the last minibatch.
        """
        batch = self._make_batch_if_necessary(training_data=training_data)
        ((module_id, rows),) = batch.policy_batches.items()
        if self.config.max_sampling_staleness and self.config.importance_weight_cap is not None:
            add_proximal_logp(self, module_id, rows)
        trajectory_of_row = np.asarray(rows[TRAJECTORY_INDEX])
        starts = np.flatnonzero(np.diff(trajectory_of_row, prepend=-1))
        bounds = np.append(starts, len(trajectory_of_row))
        order = np.arange(len(starts))
        shuffler = np.random.default_rng((self.config.seed or 0, self._weights_seq_no))
        num_yielded = 0
        for _ in range(num_epochs):
            if shuffle_batch_per_epoch:
                order = shuffler.permutation(len(starts))
            for first in range(0, len(order), minibatch_size or len(order)):
                chosen = order[first : first + (minibatch_size or len(order))]
                index = torch.from_numpy(np.concatenate([np.arange(*bounds[t : t + 2]) for t in chosen]))
                minibatch = SampleBatch(select_rows(dict(rows), index))
                num_yielded += 1
                yield MultiAgentBatch({module_id: minibatch}, env_steps=len(index))
        if num_total_minibatches and num_yielded != num_total_minibatches:
            raise RuntimeError(
                f"This learner made {num_yielded} minibatches instead of {num_total_minibatches}; with several "
                "learners every one must get the same number of trajectories."
            )

    @override(TorchLearner)
    def _uncompiled_update(self, batch: dict[ModuleID, Any], **kwargs):
        """One optimizer step on one minibatch, accumulated over micro-batches."""
        ((module_id, rows),) = batch.items()
        rows = dict(rows)
        micro_batches = self._divide(module_id, rows)
        # The sum over all learners: the loss is the same however the minibatch is sharded.
        normalizer = rows[TOKEN_WEIGHT].sum().to(self._device, torch.float32)
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if world_size > 1:
            dist.all_reduce(normalizer)
        self._loss_scale = world_size / normalizer.clamp(min=1e-8)
        self._sums: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # name -> weighted sum, sum of the weights
        self._largest: dict[str, torch.Tensor] = {}

        for optimizer in self._optimizer_parameters:
            optimizer.zero_grad(set_to_none=True)
        total_loss = torch.zeros((), device=self._device)
        for i, index in enumerate(micro_batches):
            micro = self._micro_batch(module_id, rows, index)
            with self.gradient_sync(self.module[module_id], enabled=i == len(micro_batches) - 1):
                fwd_out = self.module.forward_train({module_id: micro})
                loss = self.compute_losses(fwd_out=fwd_out, batch={module_id: micro})[module_id]
                loss.backward()
            total_loss += loss.detach()
        if world_size > 1:
            self._add_over_learners(total_loss, world_size)

        self._step(module_id, total_loss)
        self._log_minibatch(module_id)
        self._is_first_minibatch = False
        return {}, {module_id: total_loss}, {}

    def _divide(self, module_id: ModuleID, rows: dict[str, Any]) -> list[torch.Tensor]:
        """Row indices of the micro-batches; as many on every learner, since each pass is a collective operation."""
        cfg = self.config
        lengths = torch.ones(len(rows[TRAJECTORY_INDEX]), dtype=torch.int64)
        if cfg.micro_batch_tokens:
            lengths = self.module[module_id].unwrapped().sequence_lengths(rows)
        limits = {"max_rows": cfg.micro_batch_size, "max_tokens": cfg.micro_batch_tokens}
        parts = plan_micro_batches(lengths, **limits)
        if dist.is_initialized() and dist.get_world_size() > 1:
            most = torch.tensor(len(parts), device=self._device)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            parts = plan_micro_batches(lengths, **limits, at_least=int(most))
        self.metrics.log_value((module_id, names.NUM_MICRO_BATCHES), len(parts), reduce="mean")
        if cfg.micro_batch_tokens:
            padded = sum(len(part) * int(lengths[part].max()) for part in parts if len(part))
            fill = padded / len(parts) / cfg.micro_batch_tokens
            self.metrics.log_value((module_id, names.MICRO_BATCH_FILL), fill, reduce="mean")
        return parts

    def _micro_batch(self, module_id: ModuleID, rows: dict[str, Any], index: torch.Tensor) -> dict[str, Any]:
        """The rows of a micro-batch on this learner's device; no rows: any row, with weight zero."""
        micro = select_rows(rows, index if len(index) else torch.zeros(1, dtype=torch.int64))
        if self.config.micro_batch_tokens:
            micro = self.module[module_id].unwrapped().trim_padding(micro)
        if not len(index):
            for column in (TOKEN_WEIGHT, TOKEN_MASK):
                micro[column] = torch.zeros_like(micro[column])
        return convert_to_torch_tensor(micro, device=self._device)

    # --- loss -------------------------------------------------------------------------------------------------------

    @override(Learner)
    def compute_loss_for_module(self, *, module_id: ModuleID, config, batch, fwd_out) -> torch.Tensor:
        """The share of the minibatch's loss that this micro-batch contributes."""
        log_probs = fwd_out[ALL_LOG_PROBS]
        weight, mask = batch[TOKEN_WEIGHT], batch[TOKEN_MASK]
        logp = gather(log_probs, batch[Columns.ACTIONS])
        # The weights before the update: those that sampled, or, with pipelining, newer ones.
        old_logp = batch.get(PROXIMAL_LOGP, batch[Columns.ACTION_LOGP])

        token = clipped_policy_loss(
            logp,
            old_logp,
            batch[Columns.ADVANTAGES],
            clip_low=config.clip_param_low,
            clip_high=config.clip_param_high,
            dual_clip=config.dual_clip,
        )
        loss = token.policy_loss
        is_fresh = batch[WEIGHTS_SEQ_NO] == self.version_before_update
        if PROXIMAL_LOGP in batch:
            importance = truncated_importance_weights(
                old_logp, batch[Columns.ACTION_LOGP], config.importance_weight_cap
            )
            loss = importance * loss
            is_stale_token = mask * ~is_fresh.unsqueeze(-1)
            self._add_up(names.IMPORTANCE_WEIGHT, importance, is_stale_token)
            self._add_up(names.IMPORTANCE_WEIGHT_CAPPED, importance >= config.importance_weight_cap, is_stale_token)
        if config.entropy_coeff > 0:
            entropy = token_entropy(log_probs)
            loss = loss - config.entropy_coeff * entropy
        else:
            with torch.no_grad():
                entropy = token_entropy(log_probs)
        if config.kl_coeff > 0:
            with torch.no_grad():
                reference = self._reference[module_id].forward_train(batch)[ALL_LOG_PROBS]
            kl = categorical_kl(log_probs, reference)
            loss = loss + config.kl_coeff * kl
            self._add_up(names.KL_TO_REFERENCE, kl, mask)

        self._add_up(names.POLICY_LOSS, token.policy_loss, weight)
        self._add_up(names.CLIP_FRACTION_LOW, token.clipped_low, mask)
        self._add_up(names.CLIP_FRACTION_HIGH, token.clipped_high, mask)
        self._add_up(names.APPROX_KL, old_logp - logp, mask)
        self._add_up(names.ENTROPY, entropy, mask)
        if self._is_first_minibatch:
            # Carried-over groups were sampled by older weights.
            deviation = ((token.ratio.detach() - 1.0).abs() * mask * is_fresh.unsqueeze(-1)).max()
            previous = self._largest.get(names.RATIO_MAX_DEVIATION, deviation)
            self._largest[names.RATIO_MAX_DEVIATION] = torch.maximum(previous, deviation)
        return (loss * weight).sum() * self._loss_scale

    # --- optimizer step and logging ---------------------------------------------------------------------------------

    def _step(self, module_id: ModuleID, total_loss: torch.Tensor) -> None:
        """Clips and applies the gradients, or skips the step if anything is not finite."""
        gradients = {ref: p.grad for ref, p in self._params.items() if p.grad is not None}
        gradients = self.postprocess_gradients(gradients)
        is_finite = bool(torch.isfinite(total_loss)) and all_finite(gradients.values())
        is_first = True
        if dist.is_initialized() and dist.get_world_size() > 1:
            flag = torch.tensor(float(is_finite), device=self._device)
            dist.all_reduce(flag, op=dist.ReduceOp.MIN)
            is_finite, is_first = bool(flag), dist.get_rank() == 0
        # All learners skip the step; RLlib adds up what each of them says.
        self.metrics.log_value((module_id, names.NUM_NONFINITE_UPDATES), int(not is_finite and is_first), reduce="sum")
        if is_finite:
            self._consecutive_nonfinite = 0
            self.apply_gradients(gradients)
            return
        self._consecutive_nonfinite += 1
        logger.warning("Skipped an optimizer step: the loss or a gradient is not finite.")
        if self._consecutive_nonfinite >= self.config.max_consecutive_nonfinite_updates:
            raise NonFiniteUpdateError(
                f"{self._consecutive_nonfinite} optimizer steps in a row had a non-finite loss or gradient. "
                "Lower `lr`, or look at `gradients_default_optimizer_global_norm` before the failure."
            )

    def _add_up(self, name: str, values: torch.Tensor, weight: torch.Tensor) -> None:
        """Adds a micro-batch's share to the minibatch's mean of `values`."""
        values = values.detach().float()
        total, sum_of_weights = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (total + (values * weight).sum(), sum_of_weights + weight.float().sum())

    def _add_over_learners(self, total_loss: torch.Tensor, world_size: int) -> None:
        """Makes loss and metrics those of the whole minibatch, in place, so that they do not depend on its sharding."""
        flat = torch.stack([total_loss / world_size, *(value for sums in self._sums.values() for value in sums)])
        dist.all_reduce(flat)
        total_loss.copy_(flat[0])
        for i, name in enumerate(self._sums):
            self._sums[name] = (flat[1 + 2 * i], flat[2 + 2 * i])
        for largest in self._largest.values():
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)

    def _log_minibatch(self, module_id: ModuleID) -> None:
        for name, (total, weight) in self._sums.items():
            if float(weight) > 0:  # without stale tokens there is no mean over them
                self.metrics.log_value((module_id, name), float(total / weight.clamp(min=1e-8)), reduce="mean")
        for name, largest in self._largest.items():
            self.metrics.log_value((module_id, name), float(largest), window=1)
