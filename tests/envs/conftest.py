"""Shared environments: building a simulator takes a second, so each kind is built once."""

import pytest

import envs


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
