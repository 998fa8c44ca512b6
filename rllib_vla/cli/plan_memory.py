"""Bytes of a GRPO run: on each GPU, in host memory, in the object store and on disk. Arithmetic only.

What is exact, what is an upper bound and what is a typical value is said beside each figure; `rllib plan` prints it.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import TYPE_CHECKING, Literal

import torch

import envs
from policies.openvla_oft import OpenVLAOFTConfig
from rllib_vla.cli.plan_model import ModelSize, PassCost
from rllib_vla.distributed.parallelize import choose_strategy
from rllib_vla.distributed.placement import num_simulators, shares_gpu, shares_process
from rllib_vla.scene_keys import TASKS

if TYPE_CHECKING:
    from rllib_vla.algorithms.grpo import GRPOConfig

MB, GB = 10**6, 10**9
# Resident memory of processes before any model or episode, measured (docs/cluster.md): Python with PyTorch and RLlib,
# Ray's own processes of a node, and a simulator by suite.
PROCESS_BYTES = 450 * MB
RAY_NODE_BYTES = 400 * MB
SIMULATOR_BYTES = {"libero_blocks": 520 * MB}
OTHER_SIMULATOR_BYTES = 900 * MB
# CUDA's context and libraries on each GPU and process.
CUDA_CONTEXT_BYTES = 600 * MB
# Python objects around the arrays of one model call in an episode.
ROW_OVERHEAD_BYTES = 2000

Phase = Literal["always", "start", "sample", "update"]


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of a plan.

    Attributes:
        name: What takes the memory.
        bytes: How much.
        phase: When: always, or only at the start, while sampling, or while updating.
        note: How the figure comes about.
    """

    name: str
    bytes: int
    phase: Phase = "always"
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Budget:
    """Memory of one device, process or disk.

    Attributes:
        name: Whose.
        count: How many there are of it.
        items: What fills it.
    """

    name: str
    count: int
    items: list[Item]

    @property
    def peak(self) -> int:
        """Bytes at the worst moment: what is always there and the largest of the phases."""
        total = {phase: sum(i.bytes for i in self.items if i.phase == phase) for phase in typing.get_args(Phase)}
        return total.pop("always") + max(total.values())


@dataclasses.dataclass(frozen=True)
class Workload:
    """What an iteration moves, at most.

    Attributes:
        row_bytes: One model call in an episode: observation, tokens, log-probabilities.
        rows_per_trajectory: Model calls of a trajectory that reaches the step limit.
        rows_per_group: The same for all members of a group.
        groups_per_round: Groups a sampling round plays.
        groups_per_batch: Groups an update uses.
    """

    row_bytes: int
    rows_per_trajectory: int
    rows_per_group: int
    groups_per_round: int
    groups_per_batch: int

    @property
    def group_bytes(self) -> int:
        """Bytes of a group whose members all reach the step limit."""
        return self.row_bytes * self.rows_per_group


@dataclasses.dataclass(frozen=True)
class Learning:
    """How the learners hold the model; settings that a version of `GRPOConfig` lacks have their plain meaning.

    Attributes:
        strategy: "none", "ddp" or "fsdp2".
        num_learners: Learners that share or copy the model.
        trained_bytes: All weights that the optimizer steps, in the type in which it does; adapters are float32 beside
            weights of any type.
        frozen_bytes: All others.
        recompute: Activation checkpointing.
        cpu_offload: Weights, gradients and moments rest in host memory.
    """

    strategy: str
    num_learners: int
    trained_bytes: int
    frozen_bytes: int
    recompute: bool
    cpu_offload: bool

    @property
    def shards(self) -> int:
        """Among how many learners each tensor is divided."""
        return self.num_learners if self.strategy == "fsdp2" else 1


def learning_of(config: GRPOConfig, size: ModelSize) -> Learning:
    """Reads how `config` trains a model of this size."""
    strategy = choose_strategy(config, lambda: size.num_trained)
    trained, frozen = size.trained_bytes, size.weight_bytes - size.trained_bytes
    if strategy == "fsdp2" and not _has_lora(config):
        # Built in the type of the master weights, whatever is frozen.
        per_parameter = getattr(torch, config.get_master_dtype()).itemsize
        trained, frozen = (per_parameter * n for n in (size.num_trained, size.num_parameters - size.num_trained))
    return Learning(
        strategy=strategy,
        num_learners=max(1, config.num_learners),
        trained_bytes=trained,
        frozen_bytes=frozen,
        recompute=config.activation_checkpointing,
        cpu_offload=config.cpu_offload,
    )


def workload_of(config: GRPOConfig, model: OpenVLAOFTConfig, prompt_length: int) -> Workload:
    """Bounds what an iteration moves, from the step limits of the tasks."""
    tasks, settings = config.env_config.get(TASKS), config.get_simulator_config()
    infos = envs.list_tasks(config.env, settings)
    steps = settings.get("max_control_steps") or max(
        info.max_control_steps for info in infos if tasks is None or info.name in tasks
    )
    rows = math.ceil(steps / model.chunk_size)
    tokens = model.num_action_tokens
    observation = model.num_images * model.image_size**2 * 3 + prompt_length * 9 + 4 * model.proprio_dim
    row = observation + tokens * (8 + 4 + 1) + 16 + ROW_OVERHEAD_BYTES
    return Workload(
        row_bytes=row,
        rows_per_trajectory=rows,
        rows_per_group=(rows + 1) * config.group_size,  # an episode holds the observation it ended with, too
        groups_per_round=config.num_groups_per_sampling_round or config.num_groups_per_train_batch,
        groups_per_batch=config.num_groups_per_train_batch,
    )


def learner_items(
    config: GRPOConfig, size: ModelSize, learning: Learning, training: PassCost, *, on_gpu: bool
) -> list[Item]:
    """What a learner holds on its device."""
    shards = learning.shards
    is_offloaded = config.offload_idle_model
    idle: Phase = "update" if is_offloaded else "always"
    sharded = learning.strategy == "fsdp2"
    trained = learning.trained_bytes
    weights = (learning.frozen_bytes + trained) // shards
    resting = 0 if learning.cpu_offload else 1
    shared = idle if not shares_process(config) else "always"
    items = [
        Item("weights", resting * weights, shared, f"1/{shards} each" if shards > 1 else "exact"),
        Item("gradients", resting * trained // shards, "update", "exact"),
        Item("AdamW's moments", resting * 2 * trained // shards, idle, "exact"),
    ]
    if sharded:
        items.append(
            Item("gathered weights and gradients", 4 * size.largest_block_bytes, "update", "two blocks at a time")
        )
    if learning.strategy == "ddp":
        items.append(Item("DDP's buckets", trained, "update", "a second copy of the gradients"))
    if config.kl_coeff > 0:
        items.append(Item("reference policy", weights, "always", "kl_coeff > 0"))
    step = 0 if learning.cpu_offload else trained // shards
    items.append(
        Item(
            "activations",
            max(training.peak_bytes, step),
            "update",
            "peak of one micro-batch" if training.peak_bytes >= step else "less than what the optimizer step takes",
        )
    )
    if on_gpu:
        items.append(Item("CUDA context", CUDA_CONTEXT_BYTES, "always", "typical"))
    return items


def runner_items(config: GRPOConfig, size: ModelSize, sampling: PassCost, *, on_gpu: bool) -> list[Item]:
    """What an environment runner holds on its device beside what it may share with the learner."""
    items = [Item("policy call", sampling.peak_bytes, "sample", "all trajectories at once")]
    if not shares_process(config):
        phase: Phase = "sample" if config.offload_idle_model else "always"
        items.insert(0, Item("runner's weights", size.weight_bytes, phase, "exact"))
        if on_gpu:
            items.append(Item("runner's CUDA context", CUDA_CONTEXT_BYTES, "always", "typical"))
    return items


def gpu_budgets(
    config: GRPOConfig, size: ModelSize, learning: Learning, training: PassCost, sampling: PassCost
) -> list[Budget]:
    """One budget per kind of GPU; none for a run on CPUs."""
    learner_on_gpu, runner_on_gpu = config.num_gpus_per_learner > 0, config.num_gpus_per_env_runner > 0
    learner = learner_items(config, size, learning, training, on_gpu=True)
    runner = runner_items(config, size, sampling, on_gpu=True)
    if learner_on_gpu and (shares_gpu(config) or shares_process(config)):
        return [Budget("GPU of learner and runner", max(1, config.num_learners), learner + runner)]
    budgets = []
    if learner_on_gpu:
        budgets.append(Budget("GPU of a learner", max(1, config.num_learners), learner))
    if runner_on_gpu:
        budgets.append(Budget("GPU of a runner", max(1, config.num_env_runners), runner))
    return budgets


def object_store_items(config: GRPOConfig, size: ModelSize, load: Workload) -> list[Item]:
    """What Ray's object store holds at most."""
    ahead = config.max_sampling_staleness * load.groups_per_round
    groups = load.groups_per_batch - 1 + load.groups_per_round + ahead
    items = [Item("groups", groups * load.group_bytes, note=f"{groups} groups at the step limit")]
    if not shares_process(config):
        versions = 2 + config.max_sampling_staleness
        sent = sent_bytes(config, size)
        items.append(Item("weights", versions * sent, note=f"{versions} versions of {sent / MB:.0f} MB"))
    return items


def sent_bytes(config: GRPOConfig, size: ModelSize) -> int:
    """Bytes of the weights that travel to the runners: adapters are float32, all others as they are computed with."""
    dtype = config.model_config.get("dtype", "float32")
    return size.num_sent * (4 if _has_lora(config) else getattr(torch, dtype).itemsize)


def host_budgets(
    config: GRPOConfig, size: ModelSize, learning: Learning, training: PassCost, sampling: PassCost, load: Workload
) -> list[Budget]:
    """Processes of the run; on CPUs they hold what a GPU would."""
    batch = load.groups_per_batch * load.group_bytes // learning.num_learners
    minibatch = batch
    if config.minibatch_size:
        minibatch = min(
            batch, config.minibatch_size * load.rows_per_trajectory * load.row_bytes // learning.num_learners
        )
    learner = [Item("process", PROCESS_BYTES, note="typical")]
    # Weights are read into host memory before they go to a GPU; shards are filled in one after the other.
    loading = Item("weights while loading", size.weight_bytes, "start", "then on the GPU")
    if config.num_gpus_per_learner and learning.strategy != "fsdp2":
        learner.append(loading)
    if config.num_gpus_per_learner == 0:
        learner += learner_items(config, size, learning, training, on_gpu=False)
    elif learning.cpu_offload:
        resting = (learning.frozen_bytes + 4 * learning.trained_bytes) // learning.shards
        learner.append(Item("weights, gradients, moments", resting, note="cpu_offload"))
    elif config.offload_idle_model:
        parked = sum(i.bytes for i in learner_items(config, size, learning, training, on_gpu=False) if _can_park(i))
        learner.append(Item("parked model", parked, "sample", "offload_idle_model"))
    learner.append(Item("train batch", batch + minibatch, "update", "at the step limit; a copy, and a minibatch's"))

    num_runners = max(1, config.num_env_runners)
    # Groups are in a runner's own memory until they are complete and filtered.
    playing = load.groups_per_round * load.group_bytes // num_runners
    runner = [Item("episodes being played", playing, "sample", "at the step limit")]
    if config.num_gpus_per_env_runner:
        runner.append(loading)
        if config.offload_idle_model:
            runner.append(Item("parked model", size.weight_bytes, "update", "offload_idle_model"))
    elif config.num_gpus_per_learner == 0:
        runner = runner_items(config, size, sampling, on_gpu=False) + runner

    if shares_process(config):
        budgets = [Budget("main process", 1, learner + runner)]
    else:
        main = [Item("process", PROCESS_BYTES, note="typical")]
        if not config.num_learners:
            main = learner
        elif not config.num_env_runners:
            main = main + runner
        budgets = [Budget("main process", 1, main)]
        if config.num_learners:
            budgets.append(Budget("learner", config.num_learners, learner))
        if config.num_env_runners:
            runner.insert(0, Item("process", PROCESS_BYTES, note="typical"))
            budgets.append(Budget("environment runner", config.num_env_runners, runner))
    if learning.strategy == "fsdp2":
        gathered = Item("weights for the runners", sent_bytes(config, size), note="put together after every update")
        budgets.append(Budget("first learner, in addition", 1, [gathered]))
    simulator = SIMULATOR_BYTES.get(config.env, OTHER_SIMULATOR_BYTES)
    if simulators := num_simulators(config):
        budgets.append(Budget("simulator", simulators, [Item("process", simulator, note="typical")]))
    budgets.append(Budget("object store (per cluster)", 1, object_store_items(config, size, load)))
    budgets.append(Budget("Ray (per node)", 1, [Item("raylet, agents", RAY_NODE_BYTES, note="typical")]))
    return budgets


def checkpoint_items(config: GRPOConfig, size: ModelSize, learning: Learning, load: Workload) -> list[Item]:
    """One checkpoint on disk."""
    surplus = max(0, load.groups_per_round - 1)
    # One learner's file has them in float32 whatever they are.
    moments = 2 * (learning.trained_bytes if learning.strategy == "fsdp2" else 4 * size.num_trained)
    return [
        Item("weights", learning.trained_bytes + (0 if _has_lora(config) else learning.frozen_bytes), note="exact"),
        Item("AdamW's moments", moments, note="exact"),
        Item("groups carried over", surplus * load.group_bytes, note="at most"),
    ]


def _has_lora(config: GRPOConfig) -> bool:
    return config.model_config.get("lora") is not None


def _can_park(item: Item) -> bool:
    return item.name in ("weights", "AdamW's moments")
