"""Where an iteration of GRPO goes, and the share that is neither simulation nor model.

One process: local runner, in-process simulator, `tiny` policy, libero_blocks. Simulation, forward passes, loss,
backward pass and optimizer (with gradient clipping) are timed where they are called, each without what is timed inside
it; everything else of `Algorithm.step` is overhead, the policy's image chain included. The timing itself, some
microseconds per call, counts as overhead too.
"""

from contextlib import ExitStack
from typing import Any

from benchmarks.measure import Figure, shares
from benchmarks.scenarios import make_config, policy_directory, ray_session
from benchmarks.stopwatch import Stopwatch

WORK = ("simulation", "sampling: forward", "update: forward", "update: loss", "update: backward", "update: optimizer")
_PIPELINES = {
    "EnvToModulePipeline": "overhead: env-to-module connectors",
    "ModuleToEnvPipeline": "overhead: module-to-env connectors",
    "LearnerConnectorPipeline": "overhead: learner connectors (batching)",
    "ConnectorPipelineV2": "overhead: group connectors",
}


def run(quick: bool) -> list[Figure]:
    """Returns the share of each part in an iteration, and of the overhead as a whole."""
    num_groups, rounds = (1, 1) if quick else (8, 5)
    watch = Stopwatch()
    parts = []
    with ray_session(), policy_directory() as policy, ExitStack() as stack:
        config = make_config(policy, num_simulators=0, num_slots=16).training(
            num_groups_per_train_batch=num_groups,
            minibatch_size=64,
            micro_batch_size=64,
            # Every group is trained on, so that sampling and update are in the proportion of one round.
            dynamic_sampling=False,
        )
        algorithm = config.build_algo()
        stack.callback(algorithm.stop)
        for watched in _watched():
            stack.enter_context(watch.watch(*watched))
        for iteration in range(rounds + 1):
            watch.clear()
            with watch.part("overhead: rest of the iteration"):
                algorithm.step()
            if iteration > 0:  # the first one resets scenes and compiles
                parts.append(dict(watch.seconds))
    return summarize(parts)


def summarize(parts: list[dict[str, float]]) -> list[Figure]:
    """Turns exclusive times into figures: the work, the overhead by size, and the overhead as a whole.

    Args:
        parts: Per iteration, seconds of all parts; they add up to the iteration.
    """
    total: dict[str, float] = {}
    for seconds in parts:
        for name in seconds:
            total[name] = total.get(name, 0.0) + seconds[name]
    overhead = sorted((name for name in total if name not in WORK), key=total.__getitem__, reverse=True)
    names = [name for name in WORK if name in total] + overhead
    rows = [{name: seconds.get(name, 0.0) for name in names} for seconds in parts]
    for row in rows:
        row["overhead, all"] = sum(row[name] for name in overhead)
    return shares(rows, [sum(seconds.values()) for seconds in parts], whole="iteration")


def _watched() -> list[tuple[Any, str, Any]]:
    """Lists what is timed: (class or module, attribute, part)."""
    import ray
    import torch
    from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
    from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

    from policies.openvla_oft.processing import Processor
    from rllib_vla.algorithms.grpo import GRPO
    from rllib_vla.algorithms.grpo.torch.grpo_torch_learner import GRPOTorchLearner
    from rllib_vla.env_runners.group import Member
    from rllib_vla.env_runners.simulator import Simulator
    from rllib_vla.rl_modules.openvla_oft_rl_module import OpenVLAOFTRLModule

    return [
        (Simulator, "execute", "simulation"),
        (OpenVLAOFTRLModule, "_forward_exploration", "sampling: forward"),
        (OpenVLAOFTRLModule, "_forward_train", "update: forward"),
        (GRPOTorchLearner, "compute_loss_for_module", "update: loss"),
        (torch.Tensor, "backward", "update: backward"),
        (GRPOTorchLearner, "_step", "update: optimizer"),
        (Processor, "__call__", "overhead: image chain and prompt"),
        (ConnectorPipelineV2, "__call__", lambda pipeline: _PIPELINES[type(pipeline).__name__]),
        (Member, "__init__", "overhead: episodes"),
        (Member, "observe", "overhead: episodes"),
        (ray, "put", "overhead: object store"),
        (ray, "get", "overhead: object store"),
        *((MetricsLogger, name, "overhead: metrics") for name in ("log_value", "aggregate", "reduce", "peek")),
        (GRPO, "_collect_groups", "overhead: rest of sampling"),
        (GRPO, "_update", "overhead: rest of the update"),
    ]
