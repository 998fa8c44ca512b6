"""`rllib evaluate`: success rate of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rllib_vla.cli import options
from rllib_vla.cli.console import input_errors_as_panel, make_console, prepare_process
from rllib_vla.cli.problems import InputError, Problem

if TYPE_CHECKING:
    from rllib_vla.evaluation.videos import Videos

_PROTOCOL, _OUTPUT, _PLAIN = "What is played", "Output", "Plain RLlib algorithms"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="Checkpoint, exported policy or hub id, or a trial or experiment (its best checkpoint)."),
    ],
    algo: Annotated[
        str | None,
        typer.Option("--algo", "--run", "-a", "-r", help="Algorithm of the checkpoint; found out if left out."),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", "--env", "-e", help="Suite to play (default: trained on).", rich_help_panel=_PROTOCOL),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated names (default: trained on).", rich_help_panel=_PROTOCOL)
    ] = None,
    split: Annotated[str, typer.Option(help="'eval' (held out) or 'train'.", rich_help_panel=_PROTOCOL)] = "eval",
    num_scenes: Annotated[
        int | None, typer.Option(help="Initial states per task (default: all).", rich_help_panel=_PROTOCOL)
    ] = None,
    repeats: Annotated[int, typer.Option(help="Episodes per initial state.", rich_help_panel=_PROTOCOL)] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Sample at this temperature (default: greedy).", rich_help_panel=_PROTOCOL)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampled actions.", rich_help_panel=_PROTOCOL)] = 0,
    num_simulators: Annotated[
        int, typer.Option(help="Simulator processes (0: simulate in this process).", rich_help_panel=_PROTOCOL)
    ] = 0,
    device: Annotated[
        str | None, typer.Option(help="Of the policy (default: a GPU if there is one).", rich_help_panel=_PROTOCOL)
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Of its weights (default: as trained; float32 if exported).", rich_help_panel=_PROTOCOL),
    ] = None,
    unnorm_key: Annotated[
        str | None,
        typer.Option(help="Action statistics to use, where an exported policy has several.", rich_help_panel=_PROTOCOL),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results and videos; a killed evaluation goes on.", rich_help_panel=_OUTPUT),
    ] = None,
    videos: Annotated[
        str,
        typer.Option(
            help="'failed', 'all', a number per task, or 'scenes:0,3' (needs --out).", rich_help_panel=_OUTPUT
        ),
    ] = "0",
    object_motion: Annotated[
        bool, typer.Option(help="Record whether objects are carried or pushed.", rich_help_panel=_OUTPUT)
    ] = False,
    config: Annotated[
        str, typer.Option("--config", "-c", help="Env settings (own algorithms) or config settings, as JSON.")
    ] = "{}",
    steps: Annotated[int, typer.Option(help="Stop after this many env steps.", rich_help_panel=_PLAIN)] = 10000,
    episodes: Annotated[
        int, typer.Option(help="Stop after this many episodes; 0: no limit.", rich_help_panel=_PLAIN)
    ] = 0,
    local_mode: options.LocalMode = False,
    render: Annotated[bool, typer.Option(hidden=True)] = False,
    use_shelve: Annotated[bool, typer.Option(hidden=True)] = False,
    save_info: Annotated[bool, typer.Option(hidden=True)] = False,
    track_progress: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Evaluate a checkpoint."""
    with input_errors_as_panel():
        _refuse_removed(render, use_shelve, save_info, track_progress)
        chosen_videos = _parse_videos(videos)
        if chosen_videos and out is None:
            raise InputError([Problem("needs --out, the folder for the videos", source="--videos")])
        settings = options.parse_mapping(config, "--config")
        prepare_process()
        from rllib_vla.cli.evaluation_target import EvaluationTarget, fetch, find_target

        target: EvaluationTarget = find_target(fetch(checkpoint), algo)
        console = make_console()
        for remark in target.remarks:
            console.print(f"Passed over: {remark}", style="yellow", highlight=False)
        if target.is_policy:
            from rllib_vla.cli.policy_evaluation import evaluate_target

            evaluate_target(
                target,
                console,
                suite=suite,
                tasks=None if tasks is None else tuple(options.parse_names(tasks)),
                split=split,
                num_scenes=num_scenes,
                repeats=repeats,
                temperature=temperature,
                seed=seed,
                num_simulators=num_simulators,
                device=device,
                dtype=dtype,
                unnorm_key=unnorm_key,
                out=out,
                videos=chosen_videos,
                object_motion=object_motion,
                env_config=settings,
            )
        else:
            from rllib_vla.cli.algorithm_evaluation import evaluate_algorithm

            overrides: dict[str, Any] = {**settings, "num_env_runners": 0} if local_mode else settings
            evaluate_algorithm(target, console, env=suite, overrides=overrides, steps=steps, episodes=episodes, out=out)


def _parse_videos(text: str) -> Videos:
    from rllib_vla.evaluation.videos import parse_videos

    try:
        return parse_videos(text)
    except ValueError as error:
        raise InputError([Problem(str(error), source="--videos")]) from error


def _refuse_removed(render: bool, use_shelve: bool, save_info: bool, track_progress: bool) -> None:
    problems = []
    if render:
        problems.append(Problem("headless; use --out DIR --videos N", source="--render"))
    for given, option in [
        (use_shelve, "--use-shelve"),
        (save_info, "--save-info"),
        (track_progress, "--track-progress"),
    ]:
        if given:
            problems.append(Problem("is gone: --out writes report.json, progress is always shown", source=option))
    if problems:
        raise InputError(problems)
