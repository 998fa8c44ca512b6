"""Checks of `rllib doctor` that concern LIBERO's engine: versions, rendering, and a suite tried out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys

from rllib_vla.cli.finding import FAILED, OK, Finding

_TIMEOUT_S = 300
_FRAMES = 5

# Runs in a process of its own: a broken GL driver may end the process that tries it.
_PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy as np
import envs
suite = sys.argv[1]
start = time.perf_counter()
env = envs.make_env(suite)
scenes = envs.list_scenes(suite, "eval")
env.reset(options={"scene": scenes[0]})
built = time.perf_counter()
env.reset(options={"scene": scenes[1]})
started = time.perf_counter()
env.step(np.zeros((env.chunk_size, env.action_dim)))
stepped = time.perf_counter()
for _ in range(int(sys.argv[2])):
    env.render()
drawn = time.perf_counter()
memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e9
print(json.dumps({
    "device": getattr(env, "render_device", ""), "build_s": built - start, "start_ms": 1000 * (started - built),
    "chunk_ms": 1000 * (stepped - started), "frame_ms": 1000 * (drawn - stepped) / int(sys.argv[2]), "memory": memory,
}))
"""


def check_engine() -> Finding:
    """Versions of MuJoCo, robosuite and LIBERO, and whether all of LIBERO's tasks are installed."""
    from envs.libero.engine import REQUIRED_VERSIONS, check_versions
    from envs.libero.suites import tasks

    check_versions()
    versions = [f"{package} {importlib.metadata.version(package)}" for package in REQUIRED_VERSIONS]
    infos = [(suite, info) for suite in tasks.SUITES for info in tasks.load_tasks(suite)]
    files = [find(suite, info.name) for suite, info in infos for find in (tasks.bddl_file, tasks.initial_states_file)]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        return Finding(FAILED, f"{len(missing)} files of hf-libero are missing, e.g. {missing[0]}: install it again")
    return Finding(OK, f"{', '.join(versions)}; {len(infos)} tasks with initial states")


def check_rendering() -> Finding:
    """What frames are drawn with, all devices there are, and milliseconds per frame of 256x256 pixels."""
    from envs import render_devices

    found = _try("libero_blocks")
    if isinstance(found, Finding):
        return found
    kind = "software" if "llvmpipe" in found["device"].lower() else "hardware"
    devices = render_devices.list_devices()
    num_gpus = sum(not device.is_software for device in devices)
    speed = f"{found['frame_ms']:.1f} ms per 256x256 frame of libero_blocks"
    return Finding(OK, f"{found['device']} ({kind}), {speed}; EGL has {num_gpus} GPUs of {len(devices)} devices")


def check_suite(suite: str) -> Finding:
    """A scene of the suite, started, stepped and drawn."""
    found = _try(suite)
    if isinstance(found, Finding):
        return found
    return Finding(
        OK,
        f"first scene after {found['build_s']:.1f} s, another start {found['start_ms']:.0f} ms, a chunk with its frame "
        f"{found['chunk_ms']:.0f} ms, {found['memory']:.1f} GB per process",
    )


def _try(suite: str) -> dict | Finding:
    """Plays a little of a suite in another process; a finding if that fails."""
    from rllib_vla.model_path import PROJECT_ROOT

    command = [sys.executable, "-c", _PROGRAM, suite, str(_FRAMES)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd=PROJECT_ROOT)
    except subprocess.TimeoutExpired:
        return Finding(FAILED, f"nothing within {_TIMEOUT_S} s (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'egl')})")
    if run.returncode == 0:
        return json.loads(run.stdout.strip().splitlines()[-1])
    from envs.render_devices import INSTALL_HINT

    lines = run.stderr.strip().splitlines()
    if not lines:
        return Finding(FAILED, f"the process ended with status {run.returncode}; {INSTALL_HINT}")
    error, _, message = lines[-1].partition(": ")
    explained = error.startswith("envs.") or "apt-get" in message
    return Finding(FAILED, message if explained else f"{lines[-1]}; {INSTALL_HINT}")
