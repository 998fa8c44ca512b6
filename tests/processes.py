"""Looks at processes from outside."""

import time
from collections.abc import Callable
from pathlib import Path


def is_running(process_id: int) -> bool:
    """Whether a process is there and does not only wait to be reaped."""
    try:
        return Path("/proc", str(process_id), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(condition())
