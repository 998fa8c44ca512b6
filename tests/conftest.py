"""What several test modules share."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures" / "openvla_oft" / "fixtures"


@pytest.fixture(scope="session")
def reference_fixtures() -> Path:
    """Folder of arrays recorded from the reference implementation; not part of the repository."""
    if not FIXTURES.is_dir():
        pytest.skip(f"needs the recorded reference arrays in {FIXTURES}")
    return FIXTURES


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests that need it."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
