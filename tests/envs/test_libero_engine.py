import importlib.metadata
import os
import subprocess
import sys

import pytest

from envs.libero import engine
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("package", "version"),
    [("mujoco", "3.4.0"), ("mujoco", "3.2.7"), ("robosuite", "1.5.2"), ("hf-libero", "0.1.3")],
)
def test_other_versions_are_refused(monkeypatch, package, version):
    installed = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else installed(name))
    with pytest.raises(engine.EngineError, match=rf"{package} {version}.*pip install"):
        engine.check_versions()


@pytest.mark.parametrize("package", ["mujoco", "hf-libero"])
def test_missing_package_says_how_to_install_it(monkeypatch, package):
    """LIBERO from git has the module `libero`, but it is not the package that was tested."""
    installed = importlib.metadata.version

    def version(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(engine.EngineError, match=rf"{package} is not installed.*pip install.*hf-libero==0.1.4"):
        engine.check_versions()


def test_the_versions_are_those_of_the_requirements():
    lines = [line for name in ("requirements.txt", "requirements-libero.txt") for line in (ROOT / name).open()]
    pinned = dict(line.strip().split("==") for line in lines if "==" in line)
    assert {package: pinned[package] for package in engine.REQUIRED_VERSIONS} == engine.REQUIRED_VERSIONS


def test_processes_started_together_load_without_prompt_or_shared_files(tmp_path):
    code = (
        "import os, logging; from envs.libero import engine; engine.load_engine(); "
        "import libero.libero.envs; "
        "assert 'LIBERO_CONFIG_PATH' not in os.environ; "
        "handlers = logging.getLogger('robosuite_logs').handlers; assert not handlers, handlers"
    )
    unwanted = ("LIBERO_CONFIG_PATH", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unwanted}
    environment["HOME"] = str(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert output == ""
    assert not list(tmp_path.iterdir())  # nothing is written into the home directory


def test_assets_path_must_be_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="LIBERO assets"):
        engine.set_assets_path(tmp_path / "missing")
