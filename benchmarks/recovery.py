"""Seconds from kill -9 until the work goes on, beside a start from nothing in the same run.

libero_blocks and the tiny policy. A *simulator*: until its successor has executed a chunk. An *environment runner*, the
only one, killed in the middle of a sampling round: until the iteration is done all the same. A *learner*: until the
trial, which `max_failures` starts again from its last checkpoint, has made an iteration. The *driver*: until
`rllib train ... --resume` has made one. The last two write a checkpoint in every iteration.
"""

import functools
import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import yaml

from benchmarks.measure import Figure
from benchmarks.scenarios import IMAGE_SIZE, SUITE, TASKS, make_config, policy_directory, ray_session, training_scenes
from rllib_vla.experiments.kinds.base import RLLIB

_ENV_CONFIG = {"tasks": TASKS, "image_size": IMAGE_SIZE}
_SIMULATORS = {"num_simulators_per_env_runner": 0, "num_envs_per_simulator": 16}
_TRAINING = {"num_groups_per_train_batch": 2, "minibatch_size": 16, "micro_batch_size": 64, "dynamic_sampling": False}
_CHUNK = np.zeros((8, 7), np.float32)
# The learner dies after this iteration; the driver after the first one from then on that has left a checkpoint.
_FATAL_ITERATION = 2

# Seconds of the baseline and of the recovery, of one round.
Times = tuple[float, float]


def run(quick: bool) -> list[Figure]:
    """Returns the seconds of each recovery."""
    rounds = 1 if quick else 3
    with policy_directory() as policy:
        with ray_session():
            figures = [
                summarize("simulator", "start of a simulator", _repeat(_kill_a_simulator, rounds)),
                summarize("environment runner", "undisturbed iteration", list(_kill_runners(policy, rounds))),
                summarize("learner", "start of the trial", _repeat(lambda: _kill_a_learner(policy), rounds)),
            ]
        times = _repeat(lambda: _kill_the_driver(policy), rounds)
        return [*figures, summarize("driver", "start of the run", times)]


def summarize(what: str, baseline: str, times: list[Times]) -> Figure:
    """Returns the medians of several rounds.

    Args:
        what: Which process was killed.
        baseline: What the recovery is compared with.
        times: Seconds of baseline and recovery in each round.
    """
    baselines, recoveries = zip(*times, strict=True)
    ratios = [recovery / own for own, recovery in times]
    return Figure(
        what=f"{what} killed",
        value=statistics.median(recoveries),
        baseline=baseline,
        baseline_value=statistics.median(baselines),
        unit="s",
        ratio=statistics.median(recoveries) / statistics.median(baselines),
        ratio_range=(min(ratios), max(ratios)),
        kind="share",
    )


def _repeat(measure: Callable[[], Times], rounds: int) -> list[Times]:
    return [measure() for _ in range(rounds)]


# --- a simulator ------------------------------------------------------------------------------------------------------


def _kill_a_simulator() -> Times:
    import ray

    from rllib_vla.env_runners.simulator import Request
    from rllib_vla.env_runners.simulator_pool import ActorSimulatorPool

    (scene,) = training_scenes(1)

    def play_a_chunk() -> None:
        for request in (Request(0, scene=scene), Request(0, chunk=_CHUNK)):
            pool.submit(lane, [request])
            (outcome,) = pool.wait()
            if outcome.error is not None:
                raise outcome.error

    start = time.perf_counter()
    env_config = {"image_size": IMAGE_SIZE}
    pool = ActorSimulatorPool(SUITE, env_config, num_simulators=1, slots_per_simulator=1, num_cpus_per_simulator=0.5)
    (lane,) = pool.lanes
    play_a_chunk()
    started = time.perf_counter() - start
    pid = ray.get(pool._actors[0].__ray_call__.remote(_process_id))
    killed = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    pool.submit(lane, [Request(0, chunk=_CHUNK)])
    (lost,) = pool.wait()
    if lost.error is None:
        raise RuntimeError("the killed simulator answered")
    play_a_chunk()
    recovered = time.perf_counter() - killed
    pool.close()
    return started, recovered


def _process_id(actor: object) -> int:
    return os.getpid()


# --- an environment runner --------------------------------------------------------------------------------------------


def _kill_runners(policy: str, rounds: int) -> Iterable[Times]:
    """Yields an undisturbed iteration, and the rest of one whose runner was killed, round after round."""
    from rllib_vla import metrics as names

    config = make_config(policy, num_simulators=0, num_slots=16).training(**_TRAINING)
    algorithm = config.env_runners(num_env_runners=1).build_algo()
    algorithm.step()
    for _ in range(rounds):
        start = time.perf_counter()
        seconds_sampling = algorithm.step()[names.TIME_SPLIT][names.TIME_SAMPLE]
        undisturbed = time.perf_counter() - start
        (pid,) = algorithm.env_runner_group.foreach_env_runner(_process_id, local_env_runner=False)
        killing = threading.Timer(seconds_sampling / 2, os.kill, (pid, signal.SIGKILL))
        start = time.perf_counter()
        killing.start()
        num_trained = algorithm.step()["sampling"][names.NUM_GROUPS_TRAINED]
        if killing.is_alive() or num_trained != _TRAINING["num_groups_per_train_batch"]:
            raise RuntimeError("the iteration ended before its runner was killed, or without an update")
        yield undisturbed, time.perf_counter() - start - seconds_sampling / 2
    algorithm.stop()


# --- a learner --------------------------------------------------------------------------------------------------------


def _kill_a_learner(policy: str) -> Times:
    from ray import tune

    from rllib_vla.algorithms.grpo import GRPO

    with tempfile.TemporaryDirectory() as folder:
        config = make_config(policy, num_simulators=0, num_slots=16).training(**_TRAINING).learners(num_learners=1)
        config.callbacks(on_train_result=functools.partial(_note_iteration, folder=folder))
        tuner = tune.Tuner(
            GRPO,
            param_space=config,
            run_config=tune.RunConfig(
                stop={"training_iteration": _FATAL_ITERATION + 1},
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            ),
        )
        start = time.time()
        results = tuner.fit()
        if results.num_errors:
            raise RuntimeError(f"the trial did not recover: {results.errors[0]}")
        times = [float(line) for line in (Path(folder) / "iterations").read_text().split()]
        killed = float((Path(folder) / "killed").read_text())
    return times[0] - start, next(end for end in times if end > killed) - killed


def _note_iteration(*, algorithm, result: dict, folder: str, **info) -> None:
    """RLlib callback in the trial's process: writes down when an iteration ended, and kills the learner once."""
    with (Path(folder) / "iterations").open("a") as file:
        file.write(f"{time.time()}\n")
    killed = Path(folder) / "killed"
    if result["training_iteration"] == _FATAL_ITERATION and not killed.exists():
        (answer,) = algorithm.learner_group.foreach_learner(_process_id)
        killed.write_text(str(time.time()))
        os.kill(answer.get(), signal.SIGKILL)


# --- the driver -------------------------------------------------------------------------------------------------------


def _kill_the_driver(policy: str) -> Times:
    experiment = {
        "run": "GRPO",
        "env": SUITE,
        "stop": {"training_iteration": 10_000},
        "checkpoint_config": {"checkpoint_frequency": 1, "num_to_keep": 2},
        "config": {
            "environment": {"env_config": _ENV_CONFIG},
            "rl_module": {"model_config": {"model_path": os.path.abspath(policy)}},
            "env_runners": _SIMULATORS,
            "training": {**_TRAINING, "temperature": 1.0},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "recovery.yaml").write_text(yaml.safe_dump({"recovery": experiment}))
        start = time.time()
        run = _Run(folder)
        first = run.wait_for_iteration()
        for _ in range(_FATAL_ITERATION - 1):
            run.wait_for_iteration()
        while not list(Path(folder).glob("runs/*/*/checkpoint_*/manifest.json")):
            run.wait_for_iteration()
        killed = time.time()
        run.end(signal.SIGKILL)
        resumed = _Run(folder, "--resume")
        again = resumed.wait_for_iteration()
        resumed.end(signal.SIGINT)
        return first - start, again - killed


class _Run:
    """`rllib train file recovery.yaml` in a process of its own."""

    def __init__(self, folder: str, *arguments: str):
        root = Path(__file__).resolve().parents[1]
        self._output: list[str] = []
        self._process = subprocess.Popen(
            [*RLLIB, "train", "file", "recovery.yaml", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_iteration(self) -> float:
        """Returns when the run reports its next iteration, as seconds since the epoch."""
        for line in self._process.stdout:
            self._output.append(line)
            if line.startswith("iter"):
                return time.time()
        raise RuntimeError("the run ended: " + "".join(self._output[-20:]))

    def end(self, how: signal.Signals) -> None:
        """Sends the driver, and only it, a signal, and waits until it is gone."""
        self._process.send_signal(how)
        self._process.wait()
        self._process.stdout.close()
