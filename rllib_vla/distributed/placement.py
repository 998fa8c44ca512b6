"""Which GPUs and CPUs learners, environment runners and simulators get.

``collocated``: learner i and environment runner i share a GPU and take turns. Both in one process
(`num_learners: 0`, `num_env_runners: 0`) share even the model; as actors each reserves half of the GPU, and one
bundle of the placement group keeps the pair together. ``disaggregated``: every learner and every runner has GPUs of
its own, so that they can work at the same time.

Simulators need CPUs only and may live on any node. A Tune trial runs inside one placement group; RLlib finds the
bundles of runners by their index, simulators here do as well, and learners take what they fit into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.rllib.algorithms.utils import _get_main_process_bundle
from ray.tune import PlacementGroupFactory
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

if TYPE_CHECKING:
    from rllib_vla.algorithms.grpo.grpo_config import GRPOConfig

COLLOCATED, DISAGGREGATED = PLACEMENTS = ("collocated", "disaggregated")
PACK, SPREAD = SIMULATOR_SCHEDULINGS = ("pack", "spread")
# Two actors share a GPU.
_SHARE = 0.5


def shares_gpu(config: GRPOConfig) -> bool:
    """Whether learners and runners are actors in pairs on one GPU each."""
    return (
        config.placement == COLLOCATED
        and config.num_learners > 0
        and config.num_env_runners > 0
        and config.num_gpus_per_learner > 0
    )


def shares_process(config: GRPOConfig) -> bool:
    """Whether the only learner and the only runner live in the main process and use one copy of the model."""
    return config.num_learners == 0 and config.num_env_runners == 0


def resolve_gpu_shares(config: GRPOConfig) -> None:
    """Halves the GPUs of collocated actors, in place; sets that already share are left alone.

    Raises:
        ValueError: GPUs that cannot be shared out as `placement` says; the message names the remedy.
    """
    learner, runner = config.num_gpus_per_learner, config.num_gpus_per_env_runner
    if config.placement == DISAGGREGATED:
        if shares_process(config) and learner:
            raise ValueError(
                "`placement` 'disaggregated' needs learner and runners in processes of their own: set "
                "`num_learners` and `num_env_runners` to at least 1, or `placement: collocated`"
            )
        if learner and not runner:
            raise ValueError(
                "`placement` is 'disaggregated', but the runners have no GPU: set `num_gpus_per_env_runner: 1`, or "
                "`placement: collocated`"
            )
        return
    if shares_process(config):
        return
    if (learner or runner) and (config.num_learners != config.num_env_runners):
        raise ValueError(
            f"`placement` 'collocated' pairs every learner with a runner on one GPU, but `num_learners` is "
            f"{config.num_learners} and `num_env_runners` is {config.num_env_runners}: make them equal (0 and 0: one "
            "process), or set `placement: disaggregated`"
        )
    if max(learner, runner) > 1:
        raise ValueError(
            "`placement` 'collocated' shares one GPU between a learner and a runner: `num_gpus_per_learner` and "
            "`num_gpus_per_env_runner` are at most 1. For more GPUs raise `num_learners` and `num_env_runners`"
        )
    if shares_gpu(config) and (not runner or learner + runner > 1):
        config.num_gpus_per_learner = config.num_gpus_per_env_runner = _SHARE


def num_simulators(config: GRPOConfig) -> int:
    """Returns how many simulator actors all runners together have."""
    return max(1, config.num_env_runners) * config.get_pool_size().num_simulators


def bundles(factory: PlacementGroupFactory, config: GRPOConfig) -> PlacementGroupFactory:
    """Turns RLlib's resource request into one that has room for simulators and pairs up what shares a GPU.

    Args:
        factory: RLlib's bundles: main process, environment runners, learners.
        config: Validated configuration.

    Returns:
        Bundles in the order main process, environment runners, learners (not if they share), simulators (not if they
        need no CPUs: Ray knows no empty bundles).
    """
    own = [dict(bundle) for bundle in factory.bundles]
    if shares_gpu(config):
        first = 1 + config.num_env_runners
        learners, own = own[first:], own[:first]
        for runner, learner in zip(own[1:], learners, strict=True):
            for name, amount in learner.items():
                runner[name] = runner.get(name, 0) + amount
    simulators = []
    if config.num_cpus_per_simulator:
        simulators = [{"CPU": config.num_cpus_per_simulator}] * num_simulators(config)
    strategy = "SPREAD" if config.simulator_scheduling == SPREAD else config.placement_strategy
    return PlacementGroupFactory(own + simulators, strategy=strategy)


def simulator_strategy(config: GRPOConfig, worker_index: int, index: int):
    """Returns the scheduling strategy of one simulator actor.

    Inside a placement group every simulator has its bundle: otherwise one could take a learner's, which would then
    wait for ever. Outside, Ray packs or spreads them over the nodes.

    Args:
        config: Validated configuration.
        worker_index: Its environment runner, 0 for the one in the main process.
        index: Its number at that runner.
    """
    group = ray.util.get_current_placement_group()
    if group is None:
        return "SPREAD" if config.simulator_scheduling == SPREAD else "DEFAULT"
    reserved, per_runner = reserved_bundles(config), config.get_pool_size().num_simulators
    if len(reserved) != max(1, config.num_env_runners) * per_runner:
        return "DEFAULT"  # not the bundles of this file: `resources_per_trial`, or a placement group of the user's
    return PlacementGroupSchedulingStrategy(
        group,
        placement_group_bundle_index=reserved[max(0, worker_index - 1) * per_runner + index],
        placement_group_capture_child_tasks=True,
    )


def reserved_bundles(config: GRPOConfig) -> range:
    """Returns the indices of the bundles that this trial has reserved for simulators; empty outside a trial.

    They say how many simulators there are for as long as the trial runs: what `auto` would choose changes with the
    nodes of the cluster.
    """
    group = ray.util.get_current_placement_group() if ray.is_initialized() else None
    if group is None:
        return range(0)
    has_main_bundle = any(_get_main_process_bundle(config).values())  # Tune leaves out a first one that is empty
    num_others = has_main_bundle + config.num_env_runners + (0 if shares_gpu(config) else config.num_learners)
    reserved = range(num_others, len(group.bundle_specs))
    are_ours = all(group.bundle_specs[i] == {"CPU": config.num_cpus_per_simulator} for i in reserved)
    return reserved if are_ours and len(reserved) % max(1, config.num_env_runners) == 0 else range(0)
