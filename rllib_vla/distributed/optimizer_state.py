"""An optimizer's state between learners and checkpoints, where RLlib's and PyTorch's ways lose something."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ray.rllib.utils.numpy import convert_to_numpy
from torch.optim.lr_scheduler import LRScheduler

from rllib_vla.distributed.sharded_weights import load_full


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`optimizer.state_dict()` with arrays for tensors.

    numpy does not know bfloat16: such moments become float32, which holds them exactly, and are rounded back when
    PyTorch loads them.
    """
    state = optimizer.state_dict()
    moments = {
        index: {name: _widened(value) for name, value in of_parameter.items()}
        for index, of_parameter in state["state"].items()
    }
    return convert_to_numpy(state | {"state": moments})


def load_sharded_moments(optimizer: torch.optim.Optimizer, whole: dict[int, dict[str, Any]]) -> None:
    """Takes this process's part of the moments that `whole_state` returned under "state"."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.state.clear()
    for index, moments in whole.items():
        own = {name: torch.zeros_like(parameters[index]) for name in moments if name != "step"}
        load_full(own, {name: moments[name] for name in own})
        optimizer.state[parameters[index]] = {"step": torch.tensor(float(moments["step"])), **own}


@contextmanager
def unchanged_settings(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Puts learning rate, betas, weight decay and so on of all parameter groups back when the context ends.

    Loading a state replaces them by those of the run that saved it, and making a scheduler sets the rate of its start.
    """
    kept = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    yield
    for group, settings in zip(optimizer.param_groups, kept, strict=True):
        group.update(settings)


def make_schedulers(
    optimizer: torch.optim.Optimizer, classes: Iterable[Callable[[torch.optim.Optimizer], LRScheduler]]
) -> list[LRScheduler]:
    """Schedulers that are about to load their state; the optimizer, which has loaded its own, keeps its rates."""
    with unchanged_settings(optimizer):
        return [make(optimizer) for make in classes]


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
