"""Simulator processes that are killed (SIGKILL) or frozen (SIGSTOP) from outside while groups are sampled."""

import os
import signal
import threading

import pytest
import ray

import envs
from rllib_vla import metrics as names
from rllib_vla.env_runners.group import GroupRequest
from tests.processes import is_running, wait_until
from tests.rllib_vla.toy import SUITE, make_runner, toy_config

pytestmark = pytest.mark.usefixtures("ray_session")


def process_ids(runner) -> list[int]:
    return ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in runner.pool._actors])


def sample_and_hit(runner, scenes, sent_signal, group_size=2):
    """Samples one group per scene; after the first complete one, a simulator gets the signal. Returns what came."""
    victim = process_ids(runner)[0]
    hit = threading.Event()

    def on_group(group):
        if not hit.is_set():
            hit.set()
            os.kill(victim, sent_signal)

    requests = [GroupRequest(i, scene, group_size, 0) for i, scene in enumerate(scenes)]
    groups = runner.sample_groups(requests, on_group)
    return victim, groups, runner.get_metrics()


def check_outcome(runner, victim, groups, metrics, num_requests, group_size=2):
    lost = int(metrics[names.NUM_GROUPS_LOST].peek())
    assert int(metrics[names.NUM_SIMULATOR_FAILURES].peek()) == 1
    assert 1 <= lost < num_requests
    assert len(groups) == num_requests - lost
    assert all(len(group.episodes) == group_size for group in groups)
    assert wait_until(lambda: not is_running(victim), 30), "the process was left behind"
    assert victim not in process_ids(runner)


@pytest.mark.parametrize("sent_signal", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_hit_by_a_signal_costs_its_groups_only(toy_policy_dir, sent_signal):
    config = toy_config(toy_policy_dir, dynamic_sampling=False, group_size=2).env_runners(
        num_simulators_per_env_runner=2,
        num_envs_per_simulator=2,
        num_cpus_per_simulator=0.1,
        simulator_timeout_s=6.0,
        simulator_start_timeout_s=120.0,
    )
    runner = make_runner(config)
    scenes = envs.list_scenes(SUITE, "train") * 3
    try:
        victim, groups, metrics = sample_and_hit(runner, scenes, sent_signal)
        check_outcome(runner, victim, groups, metrics, len(scenes))
        again = runner.sample_groups([GroupRequest(99, scenes[0], 2, 0)])
        assert len(again) == 1
    finally:
        runner.stop()


@pytest.mark.slow
@pytest.mark.libero_assets
@pytest.mark.parametrize("sent_signal", [signal.SIGKILL, signal.SIGSTOP])
def test_a_libero_process_hit_by_a_signal_costs_its_groups_only(toy_policy_dir, assets_path, sent_signal):
    config = toy_config(toy_policy_dir, dynamic_sampling=False, group_size=2)
    config.env_config = {}  # that of the toy suite; `environment` merges
    config = config.environment(
        "libero_goal", env_config={"assets_path": assets_path, "image_size": 96, "max_control_steps": 24}
    ).env_runners(
        num_simulators_per_env_runner=2,
        num_envs_per_simulator=2,
        num_cpus_per_simulator=0.1,
        simulator_timeout_s=40.0,
        simulator_start_timeout_s=600.0,
    )
    runner = make_runner(config)
    tasks = [info.name for info in envs.list_tasks("libero_goal")]
    scenes = [envs.list_scenes("libero_goal", "eval", [task])[0] for task in tasks[:6]]
    try:
        victim, groups, metrics = sample_and_hit(runner, scenes, sent_signal)
        check_outcome(runner, victim, groups, metrics, len(scenes))
    finally:
        runner.stop()
