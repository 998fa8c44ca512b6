"""Whether Ray's object store can hold an experiment's groups and weights, asked before they would spill to disk."""

from __future__ import annotations

from pathlib import Path

from rllib_vla.cli.algorithms import OWN_ALGORITHMS
from rllib_vla.cli.experiment import Experiment
from rllib_vla.cli.problems import InputError

_REMEDY = (
    "Give it more with --ray-object-store-memory BYTES (a container also needs as much in /dev/shm), or lower "
    "num_groups_per_sampling_round, num_groups_per_train_batch or group_size. `rllib plan` shows what takes the room."
)


def check_object_store(experiment: Experiment, capacity: float) -> str | None:
    """Compares what an experiment keeps in the object store, at most, with its size.

    Args:
        experiment: Checked experiment.
        capacity: Bytes of the object stores of all nodes.

    Returns:
        A warning if the worst case does not fit (Ray then writes objects to disk, which works and is slow).

    Raises:
        InputError: A single object is larger than the store.
    """
    need = _need(experiment)
    if need is None or not capacity:
        return None
    total, largest = need
    if largest > capacity:
        raise InputError(
            f"experiment '{experiment.name}': Ray's object store has {capacity / 1e9:.2g} GB, but one group or set of "
            f"weights alone takes up to {largest / 1e9:.2g} GB. {_REMEDY}"
        )
    if total > capacity:
        return (
            f"Ray's object store has {capacity / 1e9:.2g} GB; '{experiment.name}' may need {total / 1e9:.2g} GB when "
            f"all trajectories reach the step limit. Ray would spill the rest to disk. {_REMEDY}"
        )
    return None


def _need(experiment: Experiment) -> tuple[int, int] | None:
    """Bytes in all and of the largest object; None if this cannot be told here."""
    if experiment.run not in OWN_ALGORITHMS:
        return None
    from rllib_vla.cli import plan_memory, plan_model
    from rllib_vla.cli.plan_policy import read_policy

    config = experiment.example_config.copy(copy_frozen=False)
    config.validate()
    if config.module_class is not None or not Path(config.model_config["model_path"]).is_dir():
        return None
    model_config, prompt_length = read_policy(config, None)
    size = plan_model.measure_size(plan_model.build_model(model_config, config.model_config))
    load = plan_memory.workload_of(config, model_config, prompt_length)
    total = sum(item.bytes for item in plan_memory.object_store_items(config, size, load))
    return total, max(load.group_bytes, plan_memory.sent_bytes(config, size))
