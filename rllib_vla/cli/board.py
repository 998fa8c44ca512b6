"""`rllib board`: TensorBoard on the directory where experiments are."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rllib_vla.cli.console import input_errors_as_panel
from rllib_vla.cli.problems import InputError

_DEFAULT = "runs"


def board(
    path: Annotated[str, typer.Argument(help="Experiments, an experiment or a trial.")] = _DEFAULT,
    port: Annotated[int, typer.Option(help="Where it listens.")] = 6006,
) -> None:
    """Open TensorBoard: scalars by topic under CUSTOM SCALARS, episodes under IMAGES, settings under TEXT."""
    with input_errors_as_panel():
        check_directory(Path(path))
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", path, "--port", str(port)]
    os.execv(sys.executable, command)


def check_directory(path: Path) -> None:
    """Refuses a directory on which TensorBoard would show nothing.

    Raises:
        InputError: It does not exist, or there are no event files below it.
    """
    if not path.is_dir():
        raise InputError(f"no such directory: {path}. Experiments go to '{_DEFAULT}' unless --storage-path says else")
    if next(path.rglob("events.out.tfevents.*"), None) is None:
        raise InputError(f"there are no TensorBoard events below {path} (yet)")
