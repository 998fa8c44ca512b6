"""`rllib config show | diff | reference`: what a file means, and what can be set."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError, KeyPath, format_path

app = typer.Typer(no_args_is_help=True, help="Show what a file means, and what can be set.")

ConfigFile = Annotated[str, typer.Argument(help="Experiments (.yaml) or a config object (.py).")]


@app.command("show")
def show(
    config_file: ConfigFile,
    config: options.ConfigJson = "{}",
    stop: options.Stop = "{}",
    env: options.Env = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what is RLlib's general default.")] = False,
) -> None:
    """Print a file as it is understood, with the origin of each value; the output is an experiment file itself."""
    with input_errors_as_panel():
        experiments = _parse(config_file, config, stop, env)
    from rllib_vla.cli.resolved_settings import to_yaml

    for experiment in experiments:
        typer.echo(to_yaml(experiment.name, experiment.settings, with_rllib_defaults=everything), nl=False)


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="An experiment file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Show which settings of two files differ, defaults included."""
    with input_errors_as_panel():
        a, b = (_only_experiment(source) for source in (first, second))
    console = make_console()
    table = Table("setting", first, second, box=None, pad_edge=False)
    a_settings, b_settings = ({setting.path: setting for setting in e.settings} for e in (a, b))
    different = [path for path in _all_paths(a_settings, b_settings) if _differ(a_settings, b_settings, path)]
    for path in different:
        table.add_row(format_path(path), *(_cell(settings.get(path)) for settings in (a_settings, b_settings)))
    console.print(table if different else f"{first} and {second} mean the same.", highlight=False)


@app.command("reference")
def reference() -> None:
    """Print the reference of GRPO's settings as Markdown (docs/config_reference.md)."""
    prepare_process()
    from rllib_vla.cli.config_reference import reference_page

    typer.echo(reference_page(), nl=False)


def _parse(config_file: str, config: str, stop: str, env: str | None) -> list[Any]:
    prepare_process()
    from rllib_vla.cli.experiment_file import parse_experiments
    from rllib_vla.cli.experiment_source import apply_changes, load_source

    document, base_config = load_source(config_file)
    if criteria := options.parse_mapping(stop, "--stop"):
        apply_changes(document, {"stop": criteria}, None)
    overrides = options.parse_mapping(config, "--config") | ({} if env is None else {"env": env})
    return parse_experiments(document, overrides, base_config)


def _only_experiment(source: str) -> Any:
    experiments = _parse(source, "{}", "{}", None)
    if len(experiments) != 1:
        raise InputError(f"{source} holds {len(experiments)} experiments; one is needed for a comparison")
    return experiments[0]


def _all_paths(a: dict[KeyPath, Any], b: dict[KeyPath, Any]) -> list[KeyPath]:
    return [*a, *(path for path in b if path not in a)]


def _differ(a: dict[KeyPath, Any], b: dict[KeyPath, Any], path: KeyPath) -> bool:
    values = [settings[path].value if path in settings else ... for settings in (a, b)]
    return values[0] != values[1]


def _cell(setting: Any) -> str:
    return "-" if setting is None else f"{setting.value} [dim]({setting.origin})[/dim]"
