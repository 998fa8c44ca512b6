"""`rllib sft`: supervised fine-tuning on demonstrations."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError, readable_path

if TYPE_CHECKING:
    from rllib_vla.sft.config import SFTConfig

EXIT_NOT_READY, EXIT_FAILED, EXIT_INTERRUPTED = 1, 1, 130


def sft(
    config_file: Annotated[str, typer.Argument(help="YAML file with the settings.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    config: options.ConfigJson = "{}",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check settings and files, start nothing; exit code 1 if files are missing."),
    ] = False,
) -> None:
    """Train a policy on demonstrations, to a checkpoint that [bold]rllib train[/bold] starts from."""
    with input_errors_as_panel():
        overrides = options.parse_mapping(config, "--config")
        prepare_process()
        from rllib_vla.cli.sft_file import load_sft_config

        settings = load_sft_config(config_file, overrides)
        if dry_run:
            raise typer.Exit(_report_readiness(settings, resume))
        _run(settings, resume)


def _run(config: SFTConfig, resume: bool) -> None:
    from rllib_vla.sft.distributed import INPUT_ERRORS, WorkerError
    from rllib_vla.sft.main import run_sft

    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    try:
        path = run_sft(config, resume=resume)
    except INPUT_ERRORS as error:
        raise InputError(str(error)) from error
    except WorkerError as error:
        if error.is_input:
            raise InputError(str(error)) from error
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; continue with --resume", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    make_console().print(f"Checkpoint: {readable_path(path)}", highlight=False)


def _report_readiness(config: SFTConfig, resume: bool) -> int:
    """Prints what a run would train on and what it lacks; returns the exit code."""
    from rllib_vla.sft.readiness import check_readiness

    console = make_console()
    facts, missing = check_readiness(config, resume=resume)
    for fact in facts:
        console.print(fact, highlight=False, markup=False, soft_wrap=True)
    for what in missing:
        console.print(f"missing: {what}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        "no problem found" if not missing else f"{len(missing)} missing, nothing was started", highlight=False
    )
    return EXIT_NOT_READY if missing else 0
