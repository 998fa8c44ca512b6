"""`rllib experiment list | run | report`: chains of demonstrations, fine-tuning, RL and evaluation, as files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.example import describe_example
from rllib_vla.cli.problems import InputError, Problem, readable_path
from rllib_vla.experiments.catalogue import DEFAULT_STORAGE_PATH, experiment_path, find_experiments

app = typer.Typer(no_args_is_help=True, help="The paper's experiments as files: run, resume, report.")

Name = Annotated[str, typer.Argument(help="Name from 'rllib experiment list', or a file.")]
RunName = Annotated[str | None, typer.Option("--name", "-n", help="Directory of the run (default: the experiment's).")]
StoragePath = Annotated[str, typer.Option(help="Where directories of experiments are.")]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated seeds in place of the file's.")]
Arms = Annotated[str | None, typer.Option(help="Comma-separated arms: only these.")]
Reuse = Annotated[
    str | None, typer.Option(help="Comma-separated runs under --storage-path whose finished stages are taken over.")
]


@app.command("list")
def list_() -> None:
    """List the experiments that come with the project."""
    table = Table("name", "what it asks", title="rllib experiment run NAME", title_justify="left")
    for name, path in find_experiments().items():
        table.add_row(name, describe_example(path))
    make_console().print(table)


@app.command("run")
def run(
    experiment: Name,
    seeds: Seeds = None,
    arms: Arms = None,
    reuse: Reuse = None,
    config: Annotated[
        str, typer.Option("--config", "-c", help="Stage -> settings that win over the file's, as JSON.")
    ] = "{}",
    name: RunName = None,
    storage_path: StoragePath = DEFAULT_STORAGE_PATH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the stages.")] = False,
) -> None:
    """Run all stages that are not finished, then write the report. The same command goes on after a kill."""
    with input_errors_as_panel():
        prepare_process()
        from rllib_vla.experiments.engine import InterruptedRunError, StageFailedError, run_plan
        from rllib_vla.experiments.plan import make_plan
        from rllib_vla.experiments.reader import experiment_text, load_experiment

        path = experiment_path(experiment)
        spec = load_experiment(path, options.parse_mapping(config, "--config"))
        if name is not None:
            spec = dataclasses.replace(spec, name=name)
        if arms is not None:
            spec = spec.with_arms(options.parse_names(arms))
        plan = make_plan(spec, spec.seeds if seeds is None else _parse_seeds(seeds))
        directory = Path(storage_path) / spec.name
        names = [] if reuse is None else options.parse_names(reuse)
        others = [_other_run(Path(storage_path) / other) for other in names]
        console = make_console()
        if dry_run:
            _show(plan, directory, others)
            return
        record = {"spec": spec_record(spec), "file": experiment_text(path), "config": config}
        try:
            run_plan(
                plan, directory, say=functools.partial(console.print, highlight=False), record=record, reuse=others
            )
        except InterruptedRunError as error:
            console.print(str(error), highlight=False)
            raise typer.Exit(130) from None
        except StageFailedError as error:
            console.print(str(error), style="red", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        _write_report(directory)


@app.command("report")
def report(
    experiment: Annotated[str, typer.Argument(help="Name of a run (its directory under --storage-path).")],
    storage_path: StoragePath = DEFAULT_STORAGE_PATH,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder (default: the run's).")] = None,
) -> None:
    """Write report.html and report.md of a run, finished or not."""
    with input_errors_as_panel():
        prepare_process()
        _write_report(Path(storage_path) / experiment, out)


def spec_record(spec) -> dict:
    """Returns what a report needs to know of an experiment besides its plan."""
    arms = {arm.name: arm.label for arm in spec.arms}
    return {
        "name": spec.name,
        "title": spec.title,
        "question": spec.question,
        "arms": arms,
        "report": dataclasses.asdict(spec.report),
    }


def _write_report(directory: Path, out: Path | None = None) -> None:
    from rllib_vla.experiments.report import write_experiment_report

    try:
        page, markdown = write_experiment_report(directory, out or directory)
    except ValueError as error:
        raise InputError(str(error)) from error
    console = make_console()
    for label, path in (("Page", page), ("Markdown", markdown)):
        console.print(f"  {label + ':':<13}{readable_path(path)}", highlight=False, soft_wrap=True)


def _show(plan, directory: Path, others: Sequence[Path]) -> None:
    from rllib_vla.experiments.engine import describe, find_finished, is_finished, stage_state

    table = Table("stage", "kind", "needs", "directory", "state", title_justify="left")
    for node in plan.nodes.values():
        made = [plan.nodes[digest].folder_name for digest in node.inputs.values()]
        needs = [*made, *(readable_path(Path(path)) if "/" in path else path for path in node.paths.values())]
        folder = directory / node.folder_name
        elsewhere = None if is_finished(folder) else find_finished(node, others)
        state = stage_state(folder) if elsewhere is None else f"in {elsewhere.parent.name}"
        table.add_row(describe(node, plan), node.kind.name, ", ".join(needs), node.folder_name, state)
    console = make_console()
    console.print(table)
    count = f"{len(plan.nodes)} stage{'s' * (len(plan.nodes) != 1)}"
    console.print(f"{count} in {readable_path(directory)}, no problem found", highlight=False)


def _other_run(directory: Path) -> Path:
    from rllib_vla.experiments.engine import PLAN_FILE

    if not (directory / PLAN_FILE).is_file():
        raise InputError([Problem(f"{readable_path(directory)} holds no run of an experiment", source="--reuse")])
    return directory


def _parse_seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise InputError([Problem(f"expected numbers such as 0,1,2, got {text!r}", source="--seeds")]) from None
    if any(seed < 0 for seed in seeds):
        raise InputError([Problem("must not be negative", source="--seeds")])
    return seeds
