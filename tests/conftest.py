"""What several test modules share."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the program keeps in the user's cache folder goes elsewhere, and is new for each run.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rllib_vla_test_cache_")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

ROOT = Path(__file__).resolve().parents[1]
LIBERO_ASSETS_VARIABLE = "RLLIB_VLA_LIBERO_ASSETS"
LIBERO_ASSETS_PACK = ROOT.parent / "shared" / "libero" / "assets"
FIXTURES = ROOT.parent / "shared" / "fixtures" / "openvla_oft" / "fixtures"

# Ray's worker processes inherit this; they must find `tests.toy_suite`.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def reference_fixtures() -> Path:
    """Folder of arrays recorded from the reference implementation; not part of the repository."""
    if not FIXTURES.is_dir():
        pytest.skip(f"needs the recorded reference arrays in {FIXTURES}")
    return FIXTURES


@pytest.fixture(scope="session")
def assets_path() -> str:
    """Folder of LIBERO's assets; skips the test where there is none."""
    path = os.environ.get(LIBERO_ASSETS_VARIABLE) or LIBERO_ASSETS_PACK
    if not Path(path).is_dir():
        pytest.skip(f"needs LIBERO's assets in {LIBERO_ASSETS_VARIABLE} or in {LIBERO_ASSETS_PACK}")
    return str(path)


@pytest.fixture(scope="session")
def toy_policy_dir(tmp_path_factory) -> str:
    """Checkpoint of a randomly initialised policy for the toy suite: 16 patches, two small layers."""
    return _save_toy_policy(tmp_path_factory.mktemp("policies") / "toy")


@pytest.fixture(scope="session")
def autoregressive_toy_policy_dir(tmp_path_factory) -> str:
    """The same with one action per call, decoded token by token."""
    overrides = {"decoding": "autoregressive", "action_slot_embeddings": False, "chunk_size": 1}
    return _save_toy_policy(tmp_path_factory.mktemp("policies") / "toy_autoregressive", **overrides)


@pytest.fixture(scope="session")
def two_armed_toy_policy_dir(tmp_path_factory) -> str:
    """The same with the chunks of bimanual: 25 actions of 14 dimensions."""
    overrides = {"chunk_size": 25, "action_dim": 14}
    return _save_toy_policy(tmp_path_factory.mktemp("policies") / "toy_two_armed", **overrides)


def _save_toy_policy(path: Path, **overrides) -> str:
    import torch

    from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy, compute_statistics
    from policies.openvla_oft.configuration import VisionTowerConfig
    from tests.toy_suite import TASKS

    torch.set_num_threads(1)
    config = OpenVLAOFTConfig.preset(
        "tiny",
        featurizer=VisionTowerConfig(32, 2, 2, 64, num_prefix_tokens=5, layer_scale=True),
        fused_featurizer=VisionTowerConfig(32, 2, 2, 64, attention_pool=True),
        patch_size=24,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        **overrides,
    )
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (200, config.action_dim))
    actions[:, 6] = rng.random(200) > 0.5
    torch.manual_seed(0)
    policy = OpenVLAOFTPolicy.from_scratch(
        config, [t.instruction for t in TASKS], {"toy": compute_statistics([actions])}
    )
    policy.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests that need it."""
    import ray

    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
