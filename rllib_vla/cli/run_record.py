"""What an experiment was run with: settings, versions of the software, commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from rllib_vla.atomic_file import write_text_atomically
from rllib_vla.cli.experiment import Experiment
from rllib_vla.cli.resolved_settings import to_yaml
from rllib_vla.model_path import PROJECT_ROOT

EXPERIMENT_FILE = "experiment.yaml"
_PACKAGES = ("rllib-vla", "ray", "torch", "transformers", "mujoco", "numpy")


def software_versions() -> dict[str, str]:
    """Returns name -> version of what results depend on; ``commit`` if the project is a git checkout."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if commit := _commit():
        versions["commit"] = commit
    return versions


def record_text(experiment: Experiment) -> str:
    """Returns an experiment file with every value, its origin, and the software as comments."""
    versions = ", ".join(f"{name} {version}" for name, version in software_versions().items())
    started = f"# Started {datetime.now():%Y-%m-%d %H:%M:%S} with {versions}.\n"
    return started + to_yaml(experiment.name, experiment.settings)


def write_record(text: str, directory: str) -> None:
    """Writes the record into the experiment's directory, unless that is remote."""
    if "://" not in directory:
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(folder / EXPERIMENT_FILE, text)


def recorded_stop(directory: Path) -> dict[str, Any]:
    """Returns the stop criteria that an experiment was started with; none where there is no record."""
    path = directory / EXPERIMENT_FILE
    if not path.is_file():
        return {}
    (settings,) = yaml.safe_load(path.read_text()).values()
    return settings.get("stop") or {}


def _commit() -> str | None:
    command = ["git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
