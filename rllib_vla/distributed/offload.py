"""Room on a GPU that learner and environment runner share: what is idle waits in host memory.

While the runners sample, the learner's weights, gradients and optimizer state are idle; while the learner updates,
the runner's copy of the model is. With runner and learner in one process (one copy of the model) only gradients and
optimizer state are.
"""

from collections.abc import Callable

import torch
from ray.rllib.core.learner.learner import Learner

_HOST = torch.device("cpu")


def park_learner(learner: Learner, *, with_weights: bool) -> None:
    """Moves what a learner does not need while runners sample to host memory; runs where the learner is.

    Args:
        learner: A torch learner.
        with_weights: Also the model itself (not if the runner uses the same one).
    """
    _move_learner(learner, _HOST, with_weights=with_weights)
    _release_cached_memory()


def wake_learner(learner: Learner, *, with_weights: bool) -> None:
    """Moves back what `park_learner` moved away."""
    _move_learner(learner, torch.device(learner.device), with_weights=with_weights)


def park_runner(env_runner) -> None:
    """Moves a runner's model to host memory; runs where the runner is."""
    env_runner.module.to(_HOST)
    _release_cached_memory()


def wake_runner(env_runner) -> None:
    """Moves a runner's model back to its device."""
    env_runner.module.to(env_runner.device)


def move_optimizer_state(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Moves an optimizer's moments; scalar step counters stay where the optimizer wants them."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0:
                state[name] = value.to(device, non_blocking=True)


def _move_learner(learner: Learner, device: torch.device, *, with_weights: bool) -> None:
    for optimizer in learner._optimizer_parameters:
        optimizer.zero_grad(set_to_none=True)
    if learner.config.cpu_offload:
        return  # weights and moments rest in host memory anyway, and FSDP2 wants them there
    for optimizer in learner._optimizer_parameters:
        move_optimizer_state(optimizer, device)
    if with_weights:
        _each_module(learner, lambda module: module.to(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _each_module(learner: Learner, apply: Callable[[torch.nn.Module], object]) -> None:
    for module in learner.module._rl_modules.values():
        apply(module.unwrapped() if hasattr(module, "unwrapped") else module)


def _release_cached_memory() -> None:
    """Gives memory that PyTorch keeps for itself back to the GPU, for the other process on it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
