"""Data-parallel training by Ray Train: the same loop in several processes, one GPU each if there are any.

The batch of the configuration is that of all workers together, and random numbers are drawn for the whole batch, so n
workers train as one process does, up to the rounding of sums in another order. All workers must see `demos_dir` and
`output_dir`, which the first one writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envs.base import UnavailableError
from rllib_vla.sft.config import SFTConfig

logger = logging.getLogger(__name__)

# What a run raises for input that cannot be used; anything else is a failure.
INPUT_ERRORS = (ValueError, FileNotFoundError, FileExistsError, UnavailableError)

_RAY_FOLDER = "ray_train"  # Ray Train's own files, in the output folder
# Ray Train gives up on workers that do not run after a minute; on a busy machine importing PyTorch takes longer.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
# Workers wait in a collective operation while the first one evaluates or prepares frames. A worker that has died is
# noticed by Ray Train, not by this limit.
_COLLECTIVE_TIMEOUT_S = 24 * 3600


class WorkerError(RuntimeError):
    """Training failed in a worker; the message is the worker's.

    Attributes:
        is_input: The worker refused its input; in one process that would have been one of `INPUT_ERRORS`.
    """

    def __init__(self, message: str, is_input: bool) -> None:
        super().__init__(message)
        self.is_input = is_input


def run_distributed(config: SFTConfig, *, resume: bool = False) -> Path:
    """Trains with `config.num_workers` processes; see `rllib_vla.sft.main.run_sft`.

    Ray is started, and stopped again, if it does not run yet.

    Args:
        config: Settings, with absolute paths.
        resume: Continue from the training state in ``config.output_dir``.

    Raises:
        ValueError: There are fewer GPUs than workers.
        WorkerError: A worker failed.
        KeyboardInterrupt: SIGINT came; the workers have ended.
    """
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from rllib_vla.sft.main import CHECKPOINT_FOLDER

    os.environ.setdefault(*_START_TIMEOUT)
    starts_ray = not ray.is_initialized()
    if starts_ray:
        simulators = config.evaluation.num_simulators if config.evaluation else 0
        num_cpus = max(os.cpu_count() or 1, config.num_workers + simulators)
        ray.init(include_dashboard=False, logging_level="ERROR", num_cpus=num_cpus)
    try:
        use_gpu = _use_gpu(config, int(ray.cluster_resources().get("GPU", 0)))
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"config": config.to_dict(), "resume": resume},
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=use_gpu),
            # A name of its own: Ray Train would take up a run of the same name, and resuming is done here.
            run_config=RunConfig(name=uuid.uuid4().hex[:8], storage_path=str(Path(config.output_dir) / _RAY_FOLDER)),
        )
        try:
            with _interruptible():
                trainer.fit()
        except Exception as error:
            raise _worker_error(error) from error
    finally:
        if starts_ray:
            ray.shutdown()
    return Path(config.output_dir) / CHECKPOINT_FOLDER


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, though Ray Train's handler for it ends in ``sys.exit(0)`` and would stay."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _train_worker(arguments: dict[str, Any]) -> None:
    """Runs in each worker, where `torch.distributed` is set up."""
    import ray.train
    import ray.train.torch

    from rllib_vla.sft.main import train
    from rllib_vla.sft.workers import Workers

    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    if not workers.is_first:
        logging.getLogger("rllib_vla").setLevel(logging.WARNING)
    device = str(ray.train.torch.get_device())
    train(SFTConfig.from_dict(arguments["config"] | {"device": device}), resume=arguments["resume"], workers=workers)


def _use_gpu(config: SFTConfig, num_gpus: int) -> bool:
    """Whether each worker gets a GPU; a few workers on GPUs and the others on CPUs would be no use."""
    if config.device == "cpu" or (config.device == "auto" and num_gpus == 0):
        return False
    if num_gpus < config.num_workers:
        raise ValueError(
            f"'num_workers' is {config.num_workers}, but there are {num_gpus} GPUs: lower it, or set 'device' to cpu"
        )
    return True


def _worker_error(error: Exception) -> WorkerError:
    """What a worker raised, told by the last line that Ray Train gives for it."""
    failures = list((getattr(error, "worker_failures", None) or {}).values()) or [error]
    # Others may have failed only because the one that refused its input is gone.
    failure = next((failure for failure in failures if isinstance(failure, INPUT_ERRORS)), failures[0])
    told = str(failure).strip().splitlines() or [type(failure).__name__]
    return WorkerError(f"training failed in a worker: {told[-1]}", isinstance(failure, INPUT_ERRORS))
