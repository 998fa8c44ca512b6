"""What a path given to `rllib evaluate` holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rllib_vla.checkpoints import CheckpointError
from rllib_vla.cli.algorithms import OWN_ALGORITHMS, get_algorithm_class
from rllib_vla.cli.checkpoints import find_checkpoint
from rllib_vla.cli.problems import InputError

_MODULE = Path("learner_group/learner/rl_module/default_policy")


@dataclasses.dataclass(frozen=True)
class EvaluationTarget:
    """A checkpoint to evaluate.

    Attributes:
        path: Checkpoint of an algorithm, or exported policy directory.
        algo_class: Algorithm that wrote the checkpoint; None for exported policies.
        is_policy: Whether it holds a vision-language-action policy (otherwise: a plain RLlib algorithm).
        remarks: Damaged checkpoints that were passed over.
    """

    path: Path
    algo_class: type | None
    is_policy: bool
    remarks: tuple[str, ...] = ()

    @property
    def module_path(self) -> Path:
        """Where the checkpoint of an algorithm keeps the policy's module."""
        return self.path / _MODULE

    def load_config(self) -> Any:
        """Returns the `AlgorithmConfig` an algorithm's checkpoint was trained with."""
        from ray.rllib.algorithms.algorithm import Algorithm

        arguments = Algorithm.get_ctor_args_and_kwargs  # documents where the config comes from
        del arguments
        import pickle

        with (self.path / "class_and_ctor_args.pkl").open("rb") as file:
            return pickle.load(file)["ctor_args_and_kwargs"][0][0]


def find_target(path: Path, algo: str | None) -> EvaluationTarget:
    """Finds out what `path` holds.

    Args:
        path: Checkpoint, trial, experiment or exported policy directory.
        algo: Name of the algorithm, None to read it from the checkpoint.

    Raises:
        InputError: Nothing there can be evaluated.
    """
    if (path / "config.json").is_file() and list(path.glob("*.safetensors")):
        return EvaluationTarget(path, None, is_policy=True)
    try:
        checkpoint, remarks = find_checkpoint(path)
    except CheckpointError as error:
        raise InputError(str(error)) from error
    algo_class = get_algorithm_class(algo) if algo else _read_algorithm_class(checkpoint)
    is_policy = algo_class.__name__ in OWN_ALGORITHMS
    return EvaluationTarget(checkpoint, algo_class, is_policy, tuple(remarks))
