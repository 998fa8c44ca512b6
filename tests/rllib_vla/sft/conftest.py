"""Small demonstration files in LIBERO's layout, and a very small policy."""

import json

import h5py
import numpy as np
import pytest
import torch

from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy, VisionTowerConfig
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.dataset import demonstration_statistics
from rllib_vla.sft.demonstrations import load_demonstrations


def write_demo_file(path, instruction, lengths, *, size=16, seed=0):
    """Writes demonstrations of the given lengths; pixel (0, 0) of upright frame t of demo i is (i, t, 0)."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"problem_name": "x", "language_instruction": instruction})
        for i, length in enumerate(lengths):
            demo = data.create_group(f"demo_{i}")
            upright = rng.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
            upright[:, 0, 0] = [(i, t, 0) for t in range(length)]
            actions = rng.uniform(-1, 1, (length, 7))
            actions[:, 6] = np.where(np.arange(length) < length // 2, -1.0, 1.0)
            demo["actions"] = actions
            demo["obs/agentview_rgb"] = upright[:, ::-1, ::-1]
            demo["obs/ee_states"] = rng.normal(size=(length, 6))
            demo["obs/gripper_states"] = rng.normal(size=(length, 2))
            demo.attrs["num_samples"] = length
    return path


@pytest.fixture
def demos_dir(tmp_path):
    """Two tasks: "push" with 12 demonstrations, "lift" with 3."""
    write_demo_file(tmp_path / "push_demo.hdf5", "push the cube", [10 + i for i in range(12)], seed=1)
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [12, 9, 20], seed=2)
    return tmp_path


def config_for(demos_dir, **changes):
    """A run of a few steps on `demos_dir`'s demonstrations, in its folder "run"."""
    values = {"num_steps": 4, "batch_size": 2, "log_every_steps": 2, "unnorm_key": "blocks", "device": "cpu"}
    values |= {"demos_dir": str(demos_dir), "output_dir": str(demos_dir / "run"), "tasks": ["lift", "push"]}
    return SFTConfig.from_dict(values | {"demos_per_task": 2} | changes)


def make_policy(demonstrations, **overrides):
    """A very small policy with random weights and the demonstrations' statistics."""
    tower = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32}
    sizes = {"featurizer": VisionTowerConfig(**tower), "fused_featurizer": VisionTowerConfig(**tower)}
    sizes |= {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = OpenVLAOFTConfig.preset("tiny", **(sizes | overrides))
    torch.manual_seed(0)
    return OpenVLAOFTPolicy.from_scratch(
        config, [d.instruction for d in demonstrations], {"blocks": demonstration_statistics(demonstrations)}, "blocks"
    )


@pytest.fixture
def demonstrations(demos_dir):
    """All demonstrations of both tasks."""
    return load_demonstrations(demos_dir, ["lift", "push"])


@pytest.fixture
def policy(demonstrations):
    """A very small policy for them."""
    return make_policy(demonstrations)
