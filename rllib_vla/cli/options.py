"""Options that several commands share, with the names of the `rllib` command of Ray <= 2.40."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rllib_vla.cli.problems import InputError, Problem
from rllib_vla.cli.yaml_lines import parse_yaml

_RAY, _TUNE, _CHECKPOINTS, _LOGGING = "Ray", "Tune", "Checkpoints", "Logging"

Stop = Annotated[str, typer.Option("--stop", "-s", help="Stop criteria as JSON, e.g. '{training_iteration: 10}'.")]
ConfigJson = Annotated[str, typer.Option("--config", "-c", help="Settings as JSON, merged over the file's.")]
Env = Annotated[str | None, typer.Option("--env", "-e", help="Suite, gymnasium id or registered name.")]
Algo = Annotated[str | None, typer.Option("--algo", "--run", "-a", "-r", help="Algorithm, e.g. GRPO or PPO.")]
StoragePath = Annotated[str | None, typer.Option(help="Where experiment directories go (default: ./runs).")]

CheckpointFreq = Annotated[
    int | None,
    typer.Option(help="Iterations between checkpoints; 0: only at the end.", rich_help_panel=_CHECKPOINTS),
]
CheckpointAtEnd = Annotated[
    bool | None, typer.Option(help="Write one when a trial ends (default).", rich_help_panel=_CHECKPOINTS)
]
KeepCheckpointsNum = Annotated[
    int | None, typer.Option(help="How many of the best to keep; all if unset.", rich_help_panel=_CHECKPOINTS)
]
CheckpointScoreAttr = Annotated[
    str | None,
    typer.Option(help="Result that ranks checkpoints; 'min-' in front: low is good.", rich_help_panel=_CHECKPOINTS),
]

LogInfo = Annotated[bool, typer.Option("--log-info", "-v", help="Show Ray's remarks.", rich_help_panel=_LOGGING)]
LogDebug = Annotated[bool, typer.Option("--log-debug", "-vv", help="Show everything.", rich_help_panel=_LOGGING)]
Framework = Annotated[str | None, typer.Option(help="'torch' is the only one left.", rich_help_panel=_LOGGING)]
Trace = Annotated[bool, typer.Option(help="TensorFlow only: refused.", hidden=True)]
WandbKey = Annotated[str | None, typer.Option(help="Weights & Biases API key.", rich_help_panel=_LOGGING)]
WandbProject = Annotated[str | None, typer.Option(help="W&B project.", rich_help_panel=_LOGGING)]
WandbRunName = Annotated[str | None, typer.Option(help="W&B run name.", rich_help_panel=_LOGGING)]

LocalMode = Annotated[
    bool, typer.Option(help="Sample and learn in one process (no runners, no learners).", rich_help_panel=_RAY)
]
RayAddress = Annotated[str | None, typer.Option(help="Cluster to join.", rich_help_panel=_RAY)]
RayUi = Annotated[bool, typer.Option(help="Start Ray's dashboard.", rich_help_panel=_RAY)]
RayNumCpus = Annotated[int | None, typer.Option(help="CPUs Ray may use.", rich_help_panel=_RAY)]
RayNumGpus = Annotated[int | None, typer.Option(help="GPUs Ray may use.", rich_help_panel=_RAY)]
RayNumNodes = Annotated[int | None, typer.Option(help="Emulate a cluster of nodes.", rich_help_panel=_RAY)]
RayObjectStoreMemory = Annotated[int | None, typer.Option(help="Bytes.", rich_help_panel=_RAY)]

Resume = Annotated[bool, typer.Option("--resume", help="Continue the newest run of this name.", rich_help_panel=_TUNE)]
Scheduler = Annotated[str | None, typer.Option(help="Tune scheduler (default FIFO).", rich_help_panel=_TUNE)]
SchedulerConfig = Annotated[str, typer.Option(help="Its arguments as JSON.", rich_help_panel=_TUNE)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, start nothing.", rich_help_panel=_TUNE)]

LocalDir = Annotated[str | None, typer.Option(hidden=True)]
UploadDir = Annotated[str | None, typer.Option(hidden=True)]


def parse_names(text: str) -> list[str]:
    """Reads comma-separated names."""
    return [name.strip() for name in text.split(",")]


def parse_mapping(text: str, option: str) -> dict[str, Any]:
    """Reads a JSON or YAML mapping from the command line.

    Raises:
        InputError: It is no mapping.
    """
    document = parse_yaml(text, source=option)
    if document.problems:
        raise InputError(document.problems)
    if not isinstance(document.data, dict | None):
        raise InputError([Problem(f"expected a mapping such as '{{key: value}}', got {text!r}", source=option)])
    return document.data or {}


def refuse_removed(*, framework: str | None, trace: bool, local_dir: str | None, upload_dir: str | None) -> None:
    """Refuses options of the old command that mean nothing any more, with what replaces them."""
    problems = []
    if framework not in (None, "torch"):
        problems.append(Problem("RLlib's new API stack supports torch only", source="--framework"))
    if trace:
        problems.append(Problem("traced TensorFlow; there is none any more", source="--trace"))
    if local_dir is not None:
        problems.append(Problem("use --storage-path", source="--local-dir"))
    if upload_dir is not None:
        problems.append(Problem("use --storage-path", source="--upload-dir"))
    if problems:
        raise InputError(problems)


def log_level(log_info: bool, log_debug: bool) -> str:
    """Returns the name of the level that the verbosity flags mean."""
    return "DEBUG" if log_debug else "INFO" if log_info else "ERROR"
