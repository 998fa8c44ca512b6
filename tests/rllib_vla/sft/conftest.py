"""Small demonstration files in LIBERO's layout."""

import json

import h5py
import numpy as np
import pytest


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
            demo.attrs["num_samples"] = length
    return path


@pytest.fixture
def demos_dir(tmp_path):
    """Two tasks: "push" with 12 demonstrations, "lift" with 3."""
    write_demo_file(tmp_path / "push_demo.hdf5", "push the cube", [10 + i for i in range(12)], seed=1)
    write_demo_file(tmp_path / "lift_demo.hdf5", "lift the cube", [12, 9, 20], seed=2)
    return tmp_path
