"""Whether the machine can hold a trial, asked before Tune would wait for ever for resources."""

from __future__ import annotations

from rllib_vla.cli.experiment import Experiment
from rllib_vla.cli.problems import InputError


def machine_resources(num_cpus: int | None, num_gpus: int | None) -> dict[str, float]:
    """Returns the CPUs and GPUs a local Ray will have; given numbers win over what is detected."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import get_num_cpus

    if num_gpus is None:
        num_gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    return {"CPU": get_num_cpus() if num_cpus is None else num_cpus, "GPU": num_gpus}


def requested_resources(experiment: Experiment) -> dict[str, float]:
    """Returns what one trial reserves, by resource name."""
    if experiment.resources_per_trial is not None:
        names = {"cpu": "CPU", "gpu": "GPU"}
        return {names.get(key, key): float(value) for key, value in experiment.resources_per_trial.items()}
    request = experiment.algo_class.default_resource_request(experiment.example_config.to_dict())
    return {} if request is None else dict(request.required_resources)


def check_resources(experiment: Experiment, available: dict[str, float]) -> None:
    """Refuses an experiment of which not even one trial fits.

    Raises:
        InputError: Naming what lacks and how to need less.
    """
    lacking = {
        name: amount
        for name, amount in requested_resources(experiment).items()
        if amount > available.get(name, 0) + 1e-6
    }
    if not lacking:
        return
    needs = " and ".join(f"{amount:g} {name}s" for name, amount in lacking.items())
    has = " and ".join(f"{available.get(name, 0):g}" for name in lacking)
    raise InputError(f"experiment '{experiment.name}' needs {needs} per trial, but there are {has}. {_remedy(lacking)}")


def _remedy(lacking: dict[str, float]) -> str:
    if "GPU" in lacking:
        return "Lower num_gpus_per_learner / num_gpus_per_env_runner, or join a cluster with --ray-address."
    if "CPU" in lacking:
        return (
            "Lower num_env_runners, num_simulators_per_env_runner or num_cpus_per_simulator, "
            f"or share the cores with --ray-num-cpus {-(-lacking['CPU'] // 1):.0f}."
        )
    return "Start Ray with these custom resources, or join a cluster with --ray-address."
