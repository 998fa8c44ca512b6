"""A whole chain, in processes as a user starts them."""

import os
import signal
import subprocess
import time

import pytest

from rllib_vla.evaluation.report import EvaluationReport
from rllib_vla.experiments.kinds.base import RLLIB
from rllib_vla.sft.training_state import read_progress
from tests.conftest import ROOT

FILE = """
chain:
  title: A chain
  question: Does it go on after a kill?
  seeds: [0]
  stages:
    demos: {kind: demos, tasks: [lift_red_cube], num_demos: 3}
    sft:
      kind: sft
      demos: demos
      config:
        {tasks: [lift_red_cube], num_steps: 30, batch_size: 2, checkpoint_every_steps: 1, num_threads: 1, device: cpu}
    before:
      kind: evaluate
      policy: sft
      suite: libero_blocks
      tasks: [lift_red_cube]
      num_scenes: 2
      env_config: {max_control_steps: 16}
      object_motion: true
      videos: all
  report: {before: before, paper: behaviour}
"""
TIME_LIMIT_S = 1200


def start(file, storage):
    command = [*RLLIB, "experiment", "run", str(file)]
    command += ["--storage-path", str(storage)]
    # A group of its own: with the process that runs the stages its command is killed as well.
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process) -> str:
    output, _ = process.communicate(timeout=TIME_LIMIT_S)
    assert process.returncode == 0, output
    return output


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
def test_an_experiment_killed_while_it_trains_ends_as_an_unbroken_one(tmp_path):
    file = tmp_path / "chain.yaml"
    file.write_text(FILE)
    killed = start(file, tmp_path / "killed")
    deadline = time.monotonic() + TIME_LIMIT_S
    states = []
    while not states or (read_progress(states[0]) or (0,))[0] < 3:
        assert killed.poll() is None, killed.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
        states = list((tmp_path / "killed").glob("chain/sft_*/train/training_state.pt"))
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert read_progress(states[0]).step < 30
    assert not list((tmp_path / "killed").glob("chain/sft_*/finished.json"))

    output = finish(start(file, tmp_path / "killed"))
    assert "[1/3] demos: finished before" in output
    assert "resuming at step" in output
    assert "finished before" in finish(start(file, tmp_path / "killed")).split("[3/3]")[1]
    finish(start(file, tmp_path / "unbroken"))
    weights = [
        only(tmp_path / name, "chain/sft_*/train/checkpoint/model.safetensors") for name in ("killed", "unbroken")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    reports = [EvaluationReport.load(only(tmp_path / name, "chain/before_*")) for name in ("killed", "unbroken")]
    assert reports[0].episodes == reports[1].episodes
    assert [episode.motion is not None for episode in reports[0].episodes] == [True, True]
    assert len(list((tmp_path / "unbroken").glob("chain/before_*/videos/*.mp4"))) == 2
    assert (tmp_path / "unbroken" / "chain" / "report.md").is_file()
