"""Runs the stages of a plan, each in a process of its own, and goes on where an earlier run was killed.

| file in a stage's directory | written | what it says |
|---|---|---|
| `stage.json` | before the start | settings, inputs and command |
| `finished.json` | after everything else | the stage is complete: it is never run again |

Whatever a killed stage left behind belongs to itself: demonstrations that are complete, a training state, a Tune
experiment, played episodes. Its command goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rllib_vla.atomic_file import write_text_atomically
from rllib_vla.cli.problems import InputError, readable_path
from rllib_vla.cli.run_record import software_versions
from rllib_vla.experiments.kinds.base import StageRun
from rllib_vla.experiments.plan import Node, Plan

STAGE_FILE, FINISHED_FILE, PLAN_FILE = "stage.json", "finished.json", "plan.json"
_LOCK_FILE = ".lock"
_INTERRUPTED = 130


class StageFailedError(RuntimeError):
    """A stage's command failed; the message says how and where."""


class InterruptedRunError(RuntimeError):
    """The user stopped the run; it goes on when it is started again."""


def is_finished(folder: Path) -> bool:
    """Whether the stage in a directory is complete."""
    return (folder / FINISHED_FILE).is_file()


def stage_state(folder: Path) -> str:
    """Returns ``finished``, ``begun`` or ``to do`` for the stage in a directory."""
    if is_finished(folder):
        return "finished"
    return "begun" if folder.is_dir() else "to do"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is complete or not there at all."""
    write_text_atomically(path, json.dumps(content, indent=1, default=str))


def run_plan(
    plan: Plan,
    directory: Path,
    *,
    say: Callable[[str], None],
    record: dict[str, Any] | None = None,
    reuse: Sequence[Path] = (),
    call: Callable[[list[str]], int] | None = None,
) -> None:
    """Runs every stage that is not finished, here or in a directory of `reuse`.

    Args:
        plan: What to run.
        directory: Directory of the experiment.
        say: Called with one line for the user.
        record: Written to ``plan.json`` together with the plan, for reports.
        reuse: Directories of other runs whose finished stages are taken over.
        call: Runs a command and returns its exit code; None: in a subprocess.

    Raises:
        StageFailedError: A command failed, or left nothing behind.
        InterruptedRunError: The user stopped a command.
        InputError: Another process runs this experiment.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory) as lock:
        call = call or functools.partial(run_command, keep_open=lock)
        write_json(directory / PLAN_FILE, plan.to_dict() | (record or {}))
        for number, node in enumerate(plan.nodes.values(), start=1):
            folder = directory / node.folder_name
            title = f"[{number}/{len(plan.nodes)}] {describe(node, plan)}"
            if is_finished(folder):
                say(f"{title}: finished before")
                continue
            if (made := find_finished(node, reuse)) is not None:
                say(f"{title}: taken from {readable_path(made.parent)}")
                _take_over(made, folder)
                continue
            say(f"{title} -> {readable_path(folder)}")
            run_stage(node, plan, directory, call)


def find_finished(node: Node, directories: Sequence[Path]) -> Path | None:
    """Returns where one of the runs in `directories` has finished this very stage, None if none has."""
    folders = (directory / node.folder_name for directory in directories)
    return next(filter(is_finished, folders), None)


def _take_over(made: Path, folder: Path) -> None:
    """Puts a finished stage of another run into this one, complete or not at all; big files are not copied."""
    part = folder.with_name(f".{folder.name}.part")
    for unfinished in (part, folder):
        if unfinished.exists():
            shutil.rmtree(unfinished)
    shutil.copytree(made, part, copy_function=_link_or_copy)
    part.rename(folder)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def run_stage(node: Node, plan: Plan, directory: Path, call: Callable[[list[str]], int]) -> None:
    """Runs one stage and marks it as finished; see `run_plan`."""
    folder = directory / node.folder_name
    folder.mkdir(exist_ok=True)
    made = {key: plan.nodes[digest] for key, digest in node.inputs.items()}
    inputs = node.paths | {key: str(n.kind.output_path(directory / n.folder_name)) for key, n in made.items()}
    command = node.kind.prepare(StageRun(node.settings, inputs, node.seed or 0, folder.resolve()))
    write_json(
        folder / STAGE_FILE,
        {"stage": node.stage, "kind": node.kind.name, "settings": node.settings, "inputs": inputs, "seed": node.seed}
        | {"command": command},
    )
    started = time.monotonic()
    code = call(command)
    if code in (_INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        raise InterruptedRunError(f"stopped during '{node.stage}'; the same command goes on from there")
    missing = None if code else node.kind.missing_output(folder)
    if code or missing:
        reason = missing or f"exit code {code}"
        raise StageFailedError(f"stage '{node.stage}' in {readable_path(folder)} failed: {reason}")
    write_json(
        folder / FINISHED_FILE,
        # Of this process only: what interrupted ones took before is not in it.
        {"seconds": time.monotonic() - started, "software": software_versions()},
    )


def describe(node: Node, plan: Plan) -> str:
    """Returns a stage in words: its name, and the arms and seeds that use it."""
    uses = plan.uses(node.digest)
    arms = list(dict.fromkeys(arm for arm, _ in uses))
    all_arms = {arm for arm, _ in plan.runs}
    who = "" if len(all_arms) == 1 else " of all arms" if set(arms) == all_arms else f" of {', '.join(arms)}"
    seeds = list(dict.fromkeys(seed for _, seed in uses))
    if set(seeds) == {seed for _, seed in plan.runs} and node.seed is None:
        return f"{node.stage}{who}"
    return f"{node.stage}{who}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def run_command(command: list[str], *, keep_open: int | None = None) -> int:
    """Runs a command in the foreground; SIGTERM is handed on to it, Ctrl-C reaches it by itself.

    Args:
        command: Program and arguments.
        keep_open: File descriptor that the command holds as well.

    Returns:
        Its exit code; minus the number of the signal that ended it.
    """
    process = subprocess.Popen(command, pass_fds=() if keep_open is None else (keep_open,))
    previous = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number)),
        # The terminal sends it to the whole group: the command winds up, and this process waits for it.
        signal.SIGINT: signal.signal(signal.SIGINT, lambda number, frame: None),
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Keeps a second run of the same experiment out and yields the lock's file descriptor.

    The lock goes with the last process that holds it. The stage's command is one: it may survive this process.
    """
    with (directory / _LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{readable_path(directory)} is being run by another process, or by a stage of a run that was killed: "
                "wait for it, or stop it"
            ) from None
        yield file.fileno()
