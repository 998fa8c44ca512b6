"""Imports LIBERO's engine in a way that is safe in any process: no prompt, no download, pinned simulator.

Everything that touches `libero` or `robosuite` goes through `load_engine`.
"""

import atexit
import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from envs import render_devices
from envs.base import UnavailableError

# Other MuJoCo releases go wrong with robosuite 1.4, most without any error: 3.3.3 and later change textures,
# 3.4 and later throw objects that start in slight penetration into the air, 3.10 and later raise.
# hf-libero keeps the path of its assets where `set_assets_path` sets it; LIBERO from git does not.
REQUIRED_VERSIONS = {"mujoco": "3.3.0", "robosuite": "1.4.0", "hf-libero": "0.1.4"}
INSTALL_HINT = (
    "pip install mujoco==3.3.0 && pip install --no-deps robosuite==1.4.0 hf-libero==0.1.4 bddl==1.0.1 "
    "(see requirements.txt and requirements-libero.txt)"
)


class EngineError(UnavailableError):
    """The simulation engine is missing or has a version that is known not to work."""


def check_versions() -> None:
    """Raises EngineError unless the pinned simulator packages are installed."""
    for package, required in REQUIRED_VERSIONS.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise EngineError(f"{package} is not installed. Run: {INSTALL_HINT}") from error
        if found != required:
            raise EngineError(
                f"{package} {found} is installed, but only {package} {required} is known to simulate LIBERO "
                f"correctly. Run: {INSTALL_HINT}"
            )


def load_engine(render_device: str | int | Sequence[int] = render_devices.AUTO) -> None:
    """Makes `libero.libero.envs` importable without side effects; called before its first import.

    LIBERO asks a question on stdin when its configuration file is missing, reads one shared file in the home
    directory otherwise, and tries to download assets; robosuite writes a log file at a fixed path. This gives
    each process a private configuration, an assets path that exists, and a quiet log.

    Args:
        render_device: What this process draws with, see `render_devices.choose`; the first call decides.

    Raises:
        EngineError: When a package is missing or has the wrong version.
        RenderDeviceError: When there is nothing to draw with.
    """
    check_versions()
    _load_engine(render_devices.settle(render_device).backend)


@functools.cache
def _load_engine(gl_backend: str) -> None:
    os.environ["MUJOCO_GL"] = gl_backend
    if "OpenGL" not in sys.modules:
        # Perhaps inherited from a process that draws with something else.
        os.environ.pop("PYOPENGL_PLATFORM", None)
    # Mesa's software rasteriser would otherwise start one thread per core in each simulator process.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    _load_quiet_robosuite_macros()
    # robosuite demands that this EGL number is one of CUDA's, which count otherwise.
    device_id = os.environ.pop("MUJOCO_EGL_DEVICE_ID", None)
    try:
        _import_libero_with_private_config()
    finally:
        if device_id is not None:
            os.environ["MUJOCO_EGL_DEVICE_ID"] = device_id


def set_assets_path(path: str | os.PathLike) -> None:
    """Tells LIBERO where its asset pack lies; suites that need assets call this before making an environment.

    Raises:
        FileNotFoundError: When `path` is not a directory.
    """
    load_engine()
    import libero.libero

    path = Path(path).resolve()
    if not path.is_dir():
        raise FileNotFoundError(f"LIBERO assets: {path} is not a directory")
    libero.libero._assets_path_cache = str(path)


def _load_quiet_robosuite_macros() -> None:
    # robosuite opens its log file while it is imported, so its settings have to be there before it is.
    if "robosuite" in sys.modules:
        return
    path = Path(importlib.util.find_spec("robosuite").origin).with_name("macros.py")
    spec = importlib.util.spec_from_file_location("robosuite.macros", path)
    macros = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None
    macros.CONSOLE_LOGGING_LEVEL = None
    sys.modules["robosuite.macros"] = macros
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)


def _import_libero_with_private_config() -> None:
    package = Path(importlib.util.find_spec("libero").origin).parent / "libero"
    config_dir = tempfile.mkdtemp(prefix="libero_config_")
    atexit.register(shutil.rmtree, config_dir, ignore_errors=True)
    entries = {
        "benchmark_root": package,
        "bddl_files": package / "bddl_files",
        "init_states": package / "init_files",
        "datasets": package.parent / "datasets",
        "assets": package / "assets",
    }
    Path(config_dir, "config.yaml").write_text("".join(f"{key}: {path}\n" for key, path in entries.items()))
    # matplotlib, which LIBERO imports and does not use here, would make a folder in the home directory.
    private = {"LIBERO_CONFIG_PATH": config_dir} | ({} if "matplotlib" in sys.modules else {"MPLCONFIGDIR": config_dir})
    previous = {name: os.environ.get(name) for name in private}
    os.environ.update(private)
    try:
        # bddl and robosuite print notices about optional parts while they are imported.
        with (
            open(os.devnull, "w") as null,
            contextlib.redirect_stdout(null),
            contextlib.redirect_stderr(null),
        ):
            import libero.libero

            # An existing directory keeps LIBERO from looking for its assets on the network.
            libero.libero._assets_path_cache = config_dir
            import libero.libero.envs
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
