"""Shared environments: building a simulator takes a second, so each kind is built once."""

import os
from pathlib import Path

import pytest

import envs
from envs.libero.suites.assets import ENVIRONMENT_VARIABLE

_PACK_BESIDE_CHECKOUT = Path(__file__).resolve().parents[3] / "shared" / "libero" / "assets"


@pytest.fixture(scope="session")
def assets_path() -> str:
    """Folder of LIBERO's assets; skips the test where there is none."""
    path = os.environ.get(ENVIRONMENT_VARIABLE) or _PACK_BESIDE_CHECKOUT
    if not Path(path).is_dir():
        pytest.skip(f"needs LIBERO's assets in {ENVIRONMENT_VARIABLE} or in {_PACK_BESIDE_CHECKOUT}")
    return str(path)


@pytest.fixture(scope="session")
def env():
    """`libero_blocks` with its defaults (fast stepping)."""
    env = envs.make_env("libero_blocks")
    yield env
    env.close()


@pytest.fixture(scope="session")
def exact_env():
    """`libero_blocks` stepping bit-identically to robosuite, without a practical step limit."""
    env = envs.make_env("libero_blocks", stepping="exact", max_control_steps=10_000)
    yield env
    env.close()


@pytest.fixture(scope="session")
def scene():
    """Returns a function (task, index=0, split="train") -> Scene."""

    def get(task, index=0, split="train"):
        return envs.list_scenes("libero_blocks", split, [task])[index]

    return get
