"""A TorchLearner whose model may be sharded over all learners: construction, weights, state and checkpoints."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from torch.distributed.device_mesh import init_device_mesh

from rllib_vla import metrics as names
from rllib_vla.distributed.gradients import clip_sharded_global_norm
from rllib_vla.distributed.learner_shards import ShardWriter, load_training_state, training_state
from rllib_vla.distributed.optimizer_state import (
    load_sharded_moments,
    make_schedulers,
    unchanged_settings,
    whole_state,
)
from rllib_vla.distributed.parallelize import Parallelism, choose_strategy, parallelize
from rllib_vla.distributed.sharded_weights import fill_from_files, gather, travelling_dtypes

# Parts of the learner's state that RLlib does not save.
_TORCH_STATE = "torch_state"


class ParallelTorchLearner(TorchLearner):
    """Trains one policy alone, as one of several copies (DDP), or as shards (FSDP2); see `parallelize`.

    With shards, RLlib's habit of asking one learner for weights or state does not work: putting a tensor together
    takes all learners. So the first learner holds the weights for the environment runners ready in host memory,
    collected after every update, and the state to be saved is written by `save_shards`, which all learners call.
    """

    # --- construction -----------------------------------------------------------------------------------------------

    @override(TorchLearner)
    def build(self) -> None:
        super().build()
        self._shard_writer = ShardWriter() if self.parallelism.is_sharded else None
        self._publish_weights()

    @property
    def is_sharded(self) -> bool:
        """Whether this learner holds a part of the weights only."""
        return self.parallelism.is_sharded

    @override(Learner)
    def _make_module(self) -> MultiRLModule:
        cfg, model_config = self.config, self.config.model_config
        (spec,) = self._module_spec.rl_module_specs.values()
        self.parallelism = Parallelism(
            strategy=choose_strategy(cfg, lambda: spec.module_class.num_trained_parameters(model_config)),
            compute_dtype=getattr(torch, model_config.get("dtype", "float32")),
            activation_checkpointing=cfg.activation_checkpointing,
            compile_backend=cfg.torch_compile_learner_dynamo_backend if cfg.compile_blocks else None,
            cpu_offload=cfg.cpu_offload,
        )
        if self.is_sharded and model_config.get("lora") is None:
            # Built without values, which each learner reads for its shards only, in the type of the master weights.
            # (Adapters are float32 in any case.)
            spec.model_config = {**spec.model_config, "dtype": cfg.get_master_dtype(), "device": "meta"}
        return super()._make_module()

    @override(TorchLearner)
    def _map_module_to_device(self, module: MultiRLModule) -> None:
        for rl_module in module.values():
            self._prepare(rl_module)

    def _prepare(self, rl_module) -> None:
        """Moves a module to this learner's device, whole or as a shard."""
        model = getattr(rl_module, "model", None)
        if not self.is_sharded:
            # A network of another kind is trained as it is.
            if hasattr(model, "blocks"):
                parallelize(model, self.parallelism)
            rl_module.to(self._device)
            return
        parallelize(model, self.parallelism, init_device_mesh(self._device.type, (dist.get_world_size(),)))
        if rl_module.model_config.get("device") == "meta":
            model.to_empty(device="cpu" if self.parallelism.cpu_offload else self._device)
            fill_from_files(model, rl_module.model_config["model_path"])

    @override(TorchLearner)
    def _make_modules_ddp_if_necessary(self) -> None:
        if self.parallelism.strategy == "ddp":
            super()._make_modules_ddp_if_necessary()

    def gradient_sync(self, rl_module, *, enabled: bool):
        """Context of one backward pass in which DDP averages gradients (last micro-batch) or does not (others).

        With FSDP2 gradients are reduced in every pass: to put that off would mean to keep them whole on every GPU.
        """
        if enabled or not hasattr(rl_module, "no_sync"):
            return torch.enable_grad()
        return rl_module.no_sync()

    @override(TorchLearner)
    def _get_clip_function(self):
        if not self.is_sharded:
            return super()._get_clip_function()
        return lambda gradients, **kwargs: clip_sharded_global_norm(gradients, device=self._device, **kwargs)

    # --- weights ----------------------------------------------------------------------------------------------------

    @override(TorchLearner)
    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        super().after_gradient_based_update(timesteps=timesteps)
        self._publish_weights()

    def _publish_weights(self) -> None:
        """Collects the sharded weights on the first learner; all learners must call it together."""
        if not self.is_sharded:
            return
        for module_id, rl_module in self.module._rl_modules.items():
            start = time.perf_counter()
            weights = rl_module.weights()
            dtypes = travelling_dtypes(weights, self.parallelism.compute_dtype)
            rl_module.weights_for_runners = gather(weights, dtypes, self._device, rl_module.weights_for_runners)
            num_bytes = sum(tensor.numel() * dtypes[name].itemsize for name, tensor in weights.items())
            self.metrics.log_value((module_id, names.WEIGHTS_GATHER_TIME), time.perf_counter() - start, window=1)
            self.metrics.log_value((module_id, names.WEIGHTS_BYTES), num_bytes, window=1)

    # --- state ------------------------------------------------------------------------------------------------------

    @override(Learner)
    def get_state(self, components=None, *, not_components=None, **kwargs):
        if self.is_sharded and components is None:
            # The weights are in the shards, see `save_shards`.
            not_components = [*([not_components] if isinstance(not_components, str) else not_components or [])]
            not_components.append(COMPONENT_RL_MODULE)
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(_TORCH_STATE, components, not_components):
            state[_TORCH_STATE] = {
                "rng": torch.get_rng_state().numpy(),
                "schedulers": [scheduler.state_dict() for scheduler in self._schedulers()],
            }
        return state

    @override(Learner)
    def set_state(self, state) -> None:
        if WEIGHTS_SEQ_NO in state:
            # RLlib passes over weights that are not newer than its own, and a version number of 0: an older state must
            # come back whole.
            self._weights_seq_no = 0
        super().set_state(state)
        if _TORCH_STATE in state:
            own = state[_TORCH_STATE]
            torch.set_rng_state(torch.from_numpy(own["rng"].copy()))
            self._restore_schedulers(own["schedulers"])
        self._publish_weights()

    @override(TorchLearner)
    def _get_optimizer_state(self):
        return {
            name: {"module_id": self._optimizer_name_to_module[name]}
            | (
                {"lr": [group["lr"] for group in optimizer.param_groups]}
                if self.is_sharded
                else {"state": whole_state(optimizer)}
            )
            for name, optimizer in self._named_optimizers.items()
        }

    @override(TorchLearner)
    def _set_optimizer_state(self, state) -> None:
        """Takes the state that one learner saved whole, or that a sharded one saved: then the rest is in the shards.

        Moments are taken over, and the rates of a schedule; all other settings remain those of the configuration.
        """
        for name, own in state.items():
            optimizer = self._named_optimizers[name]
            rates = own["lr"] if "lr" in own else [group["lr"] for group in own["state"]["param_groups"]]
            if "state" in own and self.is_sharded:
                load_sharded_moments(optimizer, own["state"]["state"])
            elif "state" in own:
                with unchanged_settings(optimizer):
                    super()._set_optimizer_state({name: own})
            if self._has_schedule(optimizer):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate

    def _has_schedule(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the learning rate is another one than that of the configuration."""
        own = self._optimizer_lr_schedules.get(optimizer)
        return self._lr_scheduler_classes is not None or own is None or own.use_schedule

    def _schedulers(self) -> list[torch.optim.lr_scheduler.LRScheduler]:
        """The schedulers of `_torch_lr_scheduler_classes`, in a fixed order; RLlib makes them at the first step."""
        return [s for by_name in self._lr_schedulers.values() for each in by_name.values() for s in each]

    def _restore_schedulers(self, states: list[dict[str, Any]]) -> None:
        if not states or self._lr_scheduler_classes is None:
            self._lr_schedulers.clear()  # of a state from before the first step
            return
        if not self._lr_schedulers:
            for module_id, optimizer_names in self._module_optimizers.items():
                classes = self._lr_scheduler_classes
                classes = classes[module_id] if isinstance(classes, dict) else classes
                self._lr_schedulers[module_id] = {
                    name: make_schedulers(self.get_optimizer(module_id, name), classes) for name in optimizer_names
                }
        for scheduler, own in zip(self._schedulers(), states, strict=True):
            scheduler.load_state_dict(own)

    # --- checkpoints of shards --------------------------------------------------------------------------------------

    def save_shards(self, directory: Path) -> None:
        """Begins to write weights and optimizer state; returns when they are copied. All learners must call it.

        Args:
            directory: On a file system that all learners share.
        """
        state = {}
        for weights, optimizer, parameters in self._trained():
            state |= training_state(weights, optimizer, parameters)
        self._shard_writer.start(state, directory)

    def shards_written(self, *, wait: bool) -> dict[str, dict[str, int]] | None:
        """Returns the manifest entries of the files this learner wrote, None while it is still writing.

        Raises:
            TrainingCheckpointError: The write failed.
        """
        return None if self._shard_writer.is_busy and not wait else self._shard_writer.wait()

    def load_shards(self, directory: Path) -> None:
        """Loads what sharded learners of any number wrote, into shards or whole. All learners must call it."""
        for weights, optimizer, parameters in self._trained():
            load_training_state(directory, weights, optimizer, parameters)
        self._publish_weights()

    def _trained(self):
        """Yields weights, optimizer and named parameters of each module."""
        for module_id, rl_module in self.module._rl_modules.items():
            rl_module = rl_module.unwrapped()
            weights = rl_module.weights()  # first: it frees what the last forward pass left gathered
            parameters = [(name, p) for name, p in rl_module.model.named_parameters() if p.requires_grad]
            yield weights, self.get_optimizer(module_id), parameters
