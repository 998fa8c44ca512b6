"""How commands speak to the user: consoles, error panels, and quiet imports."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from rllib_vla.cli.problems import InputError

EXIT_BAD_INPUT = 2

_ENVIRONMENT = {
    # Ray's token authentication would need a token file even for a Ray that lives and dies with this command.
    "RAY_AUTH_MODE": "disabled",
    # Relative paths in a config mean the directory the command was started in, in workers as well.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # `InterruptCallback` handles Ctrl-C.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Snapshots of the experiment (seconds): what a crash may cost.
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
    # The output engine that can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # A scheduler passes over results without evaluation; whether its metric exists is checked before the start.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::UserWarning,ignore::FutureWarning",
}


def prepare_process() -> None:
    """Sets what has to be set before Ray is imported; what the user has set in the environment wins."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger("ray._common.deprecation").setLevel(logging.ERROR)  # of RLlib's own calls, not of the user's


def make_console() -> Console:
    """Returns a console for progress and results; lines are never wrapped when piped."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


@contextmanager
def input_errors_as_panel() -> Iterator[None]:
    """Shows an `InputError` without traceback and exits with code 2."""
    try:
        yield
    except InputError as error:
        show_problems(error)
        raise typer.Exit(EXIT_BAD_INPUT) from None


def show_problems(error: InputError) -> None:
    """Prints all problems of an input, each with its place."""
    console = Console(stderr=True)
    text = Text()
    for index, problem in enumerate(error.problems):
        if index:
            text.append("\n")
        where, _, rest = str(problem).partition(": ") if problem.source else ("", "", str(problem))
        if where:
            text.append(f"{where}: ", style="bold")
        text.append(rest)
    count = len(error.problems)
    title = f"{count} problem{'s' if count > 1 else ''}, nothing was started"
    if console.is_terminal:
        console.print(Panel(text, title=title, border_style="red", title_align="left"))
    else:
        console.print(f"Error: {title}", soft_wrap=True, highlight=False)
        console.print(text, soft_wrap=True, highlight=False)
