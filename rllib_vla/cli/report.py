"""`rllib report`: a page about one or several experiments, finished or not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError, readable_path


def report(
    experiments: Annotated[list[str], typer.Argument(help="Experiment or trial directories, e.g. runs/NAME.")],
    out: Annotated[str | None, typer.Option("--out", "-o", help="Folder (default: the first experiment's).")] = None,
    axes: Annotated[tuple[str, str] | None, typer.Option(help="The two swept parameters of the heat map.")] = None,
) -> None:
    """Write report.html and report.md: best configuration, success curves, heat map, group contrast, time, episodes."""
    with input_errors_as_panel():
        prepare_process()
        from rllib_vla.reporting.page import write_report
        from rllib_vla.reporting.results import load_study

        try:
            study = load_study(experiments)
            page, markdown = write_report(study, Path(out or experiments[0]), axes=axes)
        except ValueError as error:
            raise InputError(str(error)) from error
    console = make_console()
    counts = [(len(study.trials), "trial"), (len(study.configurations), "configuration")]
    console.print(" in ".join(f"{n} {word}{'s' * (n > 1)}" for n, word in counts), highlight=False)
    for label, path in (("Page", page), ("Markdown", markdown)):
        console.print(f"  {label + ':':<13}{readable_path(path)}", highlight=False, soft_wrap=True)
