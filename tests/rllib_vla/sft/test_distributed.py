import signal
import subprocess
import sys
import time

import pytest
import yaml
from ray.train.v2._internal.util import construct_user_exception_with_traceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from envs.base import UnavailableError
from rllib_vla.experiments.kinds.base import RLLIB
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.demonstrations import DemonstrationError
from rllib_vla.sft.distributed import WorkerError, _use_gpu, _worker_error, run_distributed
from rllib_vla.sft.training_state import STATE_FILE
from tests.conftest import ROOT
from tests.rllib_vla.sft.conftest import config_for as sft_config


def config_for(device):
    return SFTConfig(demos_dir="d", output_dir="o", num_workers=4, device=device)


@pytest.mark.parametrize(
    ("device", "num_gpus", "uses_gpu"), [("auto", 0, False), ("auto", 4, True), ("cuda", 8, True), ("cpu", 8, False)]
)
def test_every_worker_gets_a_gpu_or_none_does(device, num_gpus, uses_gpu):
    assert _use_gpu(config_for(device), num_gpus) == uses_gpu


@pytest.mark.parametrize(("device", "num_gpus"), [("auto", 3), ("cuda", 0)])
def test_too_few_gpus_are_refused(device, num_gpus):
    with pytest.raises(ValueError, match=f"'num_workers' is 4, but there are {num_gpus} GPUs"):
        _use_gpu(config_for(device), num_gpus)


class Trainer:
    """In the place of Ray Train's: keeps its arguments, and does what `fit` is told to do."""

    def __init__(self, train_function, *, torch_config, **arguments):
        self.torch_config = torch_config
        Trainer.made = self

    def fit(self):
        # As Ray Train does, which leaves its handler in place.
        signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))
        self.behave()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Returns a function: trains in workers that behave as the given function, without Ray."""
    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trainer)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.cluster_resources", lambda: {})
    config = SFTConfig(demos_dir="d", output_dir=str(tmp_path), num_workers=4)

    def run(behave):
        monkeypatch.setattr(Trainer, "behave", behave, raising=False)
        return run_distributed(config)

    return run


def failing(error):
    def behave(self):
        raise error

    return behave


def test_workers_wait_for_an_evaluation_of_hours(run, tmp_path):
    assert run(lambda self: None) == tmp_path / "checkpoint"
    assert Trainer.made.torch_config.timeout_s >= 24 * 3600


def test_an_interruption_is_one_and_the_handler_is_given_back(run):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(lambda self: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_workers_error_is_told_by_its_last_line(run):
    """`test_main` has the same with workers (slow)."""

    def work():
        raise DemonstrationError("lift_demo.hdf5:/data/demo_3/actions is not finite at step 5")

    try:
        work()
    except DemonstrationError as error:
        with_traceback = construct_user_exception_with_traceback(error)
    told = str(_worker_error(WorkerGroupError("[Rank 1 Error Snippet]: ...", {1: with_traceback})))
    assert told.endswith("DemonstrationError: lift_demo.hdf5:/data/demo_3/actions is not finite at step 5")
    assert "\n" not in told
    with pytest.raises(WorkerError, match=r"training failed in a worker: the workers did not start$"):
        run(failing(ControllerError(RuntimeError("the workers did not start"))))


def test_only_what_a_worker_refuses_is_a_mistake_of_input(run):
    refused, failed = DemonstrationError("demo_3 is cut short"), RuntimeError("connection closed by peer")
    for failures, message, is_input in [
        ({0: refused}, "demo_3 is cut short", True),
        ({0: failed, 1: refused}, "demo_3 is cut short", True),
        ({0: UnavailableError("no assets")}, "no assets", True),
        ({0: failed, 1: failed}, "connection closed by peer", False),
        ({0: FloatingPointError("gradient norm nan")}, "gradient norm nan", False),
    ]:
        with pytest.raises(WorkerError, match=f"failed in a worker: {message}$") as caught:
            run(failing(WorkerGroupError("", failures)))
        assert caught.value.is_input == is_input


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(demos_dir):
    config = sft_config(demos_dir, num_workers=2, num_steps=100_000, checkpoint_every_steps=1, num_threads=1)
    file = demos_dir / "sft.yaml"
    file.write_text(yaml.safe_dump(config.to_dict()))
    process = subprocess.Popen([*RLLIB, "sft", str(file)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 1800
    while not (demos_dir / "run" / STATE_FILE).is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 130, told
    assert "interrupted; continue with --resume" in told
