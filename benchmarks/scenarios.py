"""Scenes, policy and configuration that several benchmarks share."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import envs
from envs.base import Scene

SUITE = "libero_blocks"
IMAGE_SIZE = 96
# The tasks of `make train`: one scene, three instructions, at most 40 control steps.
TASKS = ["lift_red_cube", "lift_blue_cube", "lift_green_cube"]
COLD_START = Path(__file__).resolve().parents[1] / "checkpoints" / "libero_blocks_cold_start"


def training_scenes(count: int) -> list[Scene]:
    """Returns `count` training scenes, the tasks in turn."""
    per_task = [envs.list_scenes(SUITE, "train", [task]) for task in TASKS]
    return [per_task[i % len(TASKS)][i // len(TASKS)] for i in range(count)]


def make_policy():
    """Returns the `tiny` preset with random weights for `SUITE`."""
    import numpy as np
    import torch

    from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy, compute_statistics

    torch.manual_seed(0)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 7))
    actions[:, 6] = actions[:, 6] > 0  # the gripper: 0 or 1
    policy = OpenVLAOFTPolicy.from_scratch(
        OpenVLAOFTConfig.preset("tiny"),
        [task.instruction for task in envs.list_tasks(SUITE)],
        {SUITE: compute_statistics([actions])},
    )
    policy.model.eval()
    return policy


@contextmanager
def policy_directory() -> Iterator[str]:
    """Gives the shipped cold start, or, where there is none, a checkpoint with random weights."""
    if COLD_START.is_dir():
        yield str(COLD_START)
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "policy"
        make_policy().save_pretrained(path)
        yield str(path)


def make_config(policy: str, *, num_simulators: int, num_slots: int):
    """Returns a `GRPOConfig` with runner and learner in this process.

    Args:
        policy: Checkpoint directory.
        num_simulators: Simulator actors; 0: one simulator in this process.
        num_slots: Trajectories that one simulator plays in turn.
    """
    from rllib_vla.algorithms.grpo import GRPOConfig

    return (
        GRPOConfig()
        .environment(SUITE, env_config={"tasks": TASKS, "image_size": IMAGE_SIZE})
        .env_runners(
            num_simulators_per_env_runner=num_simulators,
            num_envs_per_simulator=num_slots,
            num_cpus_per_simulator=0.5,
        )
        .rl_module(model_config={"model_path": policy})
        .training(temperature=1.0)
        .debugging(log_level="ERROR")
    )


@contextmanager
def ray_session() -> Iterator[None]:
    """A quiet local Ray that ends with the block."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
