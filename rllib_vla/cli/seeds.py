"""`rllib seeds robotwin TASK`: seed lists made by RoboTwin's scripted expert."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError, Problem, did_you_mean, readable_path

app = typer.Typer(no_args_is_help=True, help="Make lists of scenes that can be solved.")


@app.callback()
def _seeds() -> None:
    """Keeps `robotwin` a subcommand while it is the only one."""


@app.command()
def robotwin(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    out: Annotated[Path, typer.Option(help="Folder of the lists; what is there stays.")] = Path("robotwin_seeds"),
    split: Annotated[str, typer.Option(help="'train' or 'eval'.")] = "train",
    num: Annotated[int | None, typer.Option(help="Solved seeds in the list at the end (default: 1000 or 128).")] = None,
    first: Annotated[int | None, typer.Option(help="Seed to start with (default: SimpleVLA-RL's).")] = None,
    max_tried: Annotated[int, typer.Option(help="Give up after so many seeds.")] = 10_000,
    robotwin_root: Annotated[str | None, typer.Option(help="Folder of the RoboTwin checkout, 1.0 or 2.0.")] = None,
    robotwin_python: Annotated[str | None, typer.Option(help="Interpreter with RoboTwin's own packages.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Further settings of the environment, as JSON.")] = "{}",
) -> None:
    """Let RoboTwin's expert try seeds, and write down which it solves.

    Use the lists with env_config's 'seeds_path'. Takes seconds to a minute per seed. A list that is there already goes
    on: its seeds are not tried again, its solved ones count.
    """
    with input_errors_as_panel():
        prepare_process()
        import envs
        from envs.base import UnavailableError
        from envs.robotwin.real.checkout import find_any_checkout
        from envs.robotwin.real.expert import check_expert, try_seeds
        from envs.robotwin.real.process import SimulatorProcessError
        from envs.robotwin.real.seeds import FIRST_SEEDS, MAX_SCENES, add_to_seed_file, file_names, tried_seeds
        from envs.robotwin.real.tasks import SUITE_OF_VERSION

        if split not in MAX_SCENES:
            raise InputError([Problem(f"must be one of {', '.join(MAX_SCENES)}", source="--split")])
        given = {"robotwin_root": robotwin_root, "robotwin_python": robotwin_python}
        settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        settings |= options.parse_mapping(config, "--config")
        console = make_console()
        try:
            checkout = find_any_checkout(settings.get("robotwin_root"))
            if task not in checkout.task_names():
                raise InputError([Problem(f"unknown task; {did_you_mean(task, checkout.task_names())}", source="TASK")])
            path = out / file_names(checkout.version, split)[0]
            known = tried_seeds(path, task)
            env = envs.make_env(SUITE_OF_VERSION[checkout.version], **settings)
            with console.status("starting the simulator"):
                check_expert(checkout, env.start_process(), settings.get("robotwin_python"))
        except (UnavailableError, SimulatorProcessError, ValueError) as error:
            raise InputError(str(error)) from error

        start = FIRST_SEEDS[checkout.version][split] if first is None else first
        wanted = MAX_SCENES[split] if num is None else num
        counts = Counter(known.values())
        if known:
            console.print(f"Seeds tried before: {len(known)}, solved: {counts['success']}", highlight=False)
        try:
            with console.status("") as status:
                to_solve = wanted - counts["success"]
                for seed, outcome, detail in try_seeds(env, task, start, to_solve, max_tried, skip=known):
                    add_to_seed_file(path, task, {seed: outcome})  # after each one: it may take hours
                    counts[outcome] += 1
                    solved = f"{counts['success']}/{wanted} solved, {counts.total()} tried"
                    status.update(f"{solved}; last: {seed} {outcome} {detail}")
        finally:
            env.close()
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        console.print(f"{readable_path(path)}: {task} seeds from {start}: {told}", highlight=False)
    raise typer.Exit(0 if counts["success"] >= wanted else 1)
