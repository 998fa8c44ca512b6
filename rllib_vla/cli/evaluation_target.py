"""What a path given to `rllib evaluate` holds."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils.checkpoints import Checkpointable

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

    def load_config(self) -> AlgorithmConfig:
        """Returns the config an algorithm's checkpoint was trained with."""
        _, config_state = _read_constructor(self.path)
        return AlgorithmConfig.from_state(config_state)


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
    algo_class = get_algorithm_class(algo) if algo else _read_constructor(checkpoint)[0]
    is_policy = algo_class.__name__ in OWN_ALGORITHMS
    return EvaluationTarget(checkpoint, algo_class, is_policy, tuple(remarks))


def _read_constructor(checkpoint: Path) -> tuple[type, dict[str, Any]]:
    """Returns the class that wrote a checkpoint and its config's state."""
    with (checkpoint / Checkpointable.CLASS_AND_CTOR_ARGS_FILE_NAME).open("rb") as file:
        stored = pickle.load(file)
    (config_state,), _ = stored["ctor_args_and_kwargs"]
    return stored["class"], config_state
