"""Settled starts of scenes, kept on disk: playing a scene that any process has started before needs no settling.

A start is a function of the scene, the pinned packages, the model compiled from the assets, this package's code and
the processor (linear algebra libraries choose their instructions by it). All of these are in the name of the folder
that holds it, so what is found there is, bit for bit, what settling would give again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import pickle
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from envs.base import Scene
from envs.libero.engine import REQUIRED_VERSIONS
from envs.libero.suites import tasks
from envs.libero.suites.initial_states import load_plain

if TYPE_CHECKING:
    from envs.libero.chunk_stepper import ChunkStepper
    from envs.libero.snapshot import SimulatorSnapshot

logger = logging.getLogger(__name__)

AUTO = "auto"
_PACKAGES = (*REQUIRED_VERSIONS, "numpy", "numba", "scipy")
# What the eye sees and the physics does not.
_LOOKS = ("tex_", "mat_", "mesh_normal", "mesh_texcoord", "skin_", "vis", "cam_", "light_")


def default_folder() -> Path:
    """Returns ``rllib_vla/libero_starts`` in the user's cache folder (`XDG_CACHE_HOME`, else ``~/.cache``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rllib_vla" / "libero_starts"


class StartStates:
    """Starts of one suite's scenes under one way of stepping; several processes may share the folder.

    Args:
        folder: Where they are kept, about 10 kB per scene. It may be deleted at any time.
        stepping: How the settling steps are executed.
    """

    def __init__(self, folder: str | os.PathLike, stepping: str):
        self._folder = Path(folder).expanduser()
        self._stepping = stepping
        self._task_folders: dict[tuple[str, str], Path] = {}
        self._writable = True

    def load(self, scene: Scene, stepper: ChunkStepper) -> SimulatorSnapshot | None:
        """Returns the start of `scene` in the simulation that `stepper` drives; None if it is not there."""
        from envs.libero.snapshot import SimulatorSnapshot

        path = self._path(scene, stepper)
        try:
            return SimulatorSnapshot(**load_plain(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, EOFError, TypeError, ValueError, pickle.UnpicklingError) as error:
            logger.warning(f"{path} cannot be read ({error}); the scene is settled again.")
            return None

    def store(self, scene: Scene, stepper: ChunkStepper, start: SimulatorSnapshot) -> None:
        """Keeps `start`; a folder that cannot be written to is no error."""
        if not self._writable:
            return
        path = self._path(scene, stepper)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Readers of other processes see the whole file or none.
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
                file = Path(folder, path.name)
                file.write_bytes(pickle.dumps(vars(start)))
                os.replace(file, path)
        except OSError as error:
            self._writable = False
            logger.warning(f"settled starts of scenes are not kept: {error}. Choose another folder with 'start_cache'.")

    def _path(self, scene: Scene, stepper: ChunkStepper) -> Path:
        key = (scene.suite, scene.task)
        if key not in self._task_folders:
            name = _fingerprint(scene.suite, scene.task, self._stepping, stepper)
            self._task_folders[key] = self._folder / scene.suite / f"{scene.task_id:02d}-{name}"
        return self._task_folders[key] / f"{scene.split}-{scene.index:03d}"


def _fingerprint(suite: str, task: str, stepping: str, stepper: ChunkStepper) -> str:
    """Returns a name for all that decides the starts of a task, apart from the scene's split and index."""
    digest = hashlib.sha256(f"{suite} {task} {stepping} {_process_fingerprint()}".encode())
    digest.update(_model_fingerprint(stepper))
    for path in (tasks.bddl_file(suite, task), tasks.initial_states_file(suite, task)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _process_fingerprint() -> str:
    """Packages, this package's code, and the processor."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)} ".encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    digest.update(f"{platform.python_version()} {platform.machine()} {_processor()}".encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    return " ".join(next((line for line in lines if line.startswith(name)), "") for name in wanted)


def _model_fingerprint(stepper: ChunkStepper) -> bytes:
    """Returns a digest of the physical part of a model as it was compiled; poses that resets edit are left out."""
    model = stepper.model
    digest = hashlib.sha256()
    for name in sorted(dir(model)):
        if name.startswith(("_", *_LOOKS)) or name in ("body_pos", "body_quat", "site_rgba"):
            continue
        value = getattr(model, name)
        if isinstance(value, np.ndarray):
            digest.update(f"{name} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value))
    return digest.digest()
