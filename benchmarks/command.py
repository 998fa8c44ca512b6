"""The command: runs the benchmarks that are asked for, prints a table and writes the figures as JSON."""

import argparse
import difflib
import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.measure import NotAvailableError
from benchmarks.report import describe_machine, make_table, write_results

# name -> module with `run(quick: bool) -> list[Figure]`; the first line of its docstring is its title. `overhead`
# comes last: its learner changes torch's treatment of denormal numbers for the whole process.
BENCHMARKS = {
    "stepping": "benchmarks.stepping",
    "libero_rollout": "benchmarks.libero_rollout",
    "bimanual_rollout": "benchmarks.bimanual_rollout",
    "group_start": "benchmarks.group_start",
    "inference": "benchmarks.inference",
    "image_chain": "benchmarks.image_chain",
    "midsize": "benchmarks.midsize",
    "sft_data": "benchmarks.sft_data",
    "sampling_noise": "benchmarks.sampling_noise",
    "sharded_weights": "benchmarks.sharded_weights",
    "learner_memory": "benchmarks.learner_memory",
    "rollout": "benchmarks.rollout",
    "weight_sync": "benchmarks.weight_sync",
    "pipelining": "benchmarks.pipelining",
    "gpu": "benchmarks.gpu",
    "plan_accuracy": "benchmarks.plan_accuracy",
    "recovery": "benchmarks.recovery",
    "overhead": "benchmarks.overhead",
}
RESULTS_FILE = Path(__file__).with_name("results.json")
# Runnable processes per core above which other work disturbs the measurement.
MAX_QUIET_LOAD_PER_CORE = 0.25


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: Command line, by default that of the process.

    Returns:
        Exit status.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=importlib.import_module(__package__).__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all runs; not for quoting")
    parser.add_argument("--output", type=Path, default=RESULTS_FILE, help="where the figures go as JSON")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, n=1, cutoff=0.0)[0]
            parser.error(f"unknown benchmark {name!r}, did you mean {near!r}? Valid: {', '.join(BENCHMARKS)}")

    _prepare_process()
    machine = describe_machine()
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(f"{machine['processor']}, {machine['num_cores']} cores, load {machine['load']:.2f} at the start")
    if machine["load"] > MAX_QUIET_LOAD_PER_CORE * machine["num_cores"]:
        console.print("[yellow]Other processes are running: do not quote these figures.[/yellow]")
    results = {}
    for name in options.names or BENCHMARKS:
        module = importlib.import_module(BENCHMARKS[name])
        title = module.__doc__.strip().splitlines()[0]
        try:
            with console.status(f"{name}: {title}"):
                results[name] = module.run(options.quick)
        except NotAvailableError as error:
            console.print(f"[yellow]{name}: left out. {error}[/yellow]", highlight=False)
            continue
        console.print(make_table(f"{name}: {title}", results[name]))
    write_results(options.output, machine, options.quick, results)
    console.print(f"written to {os.path.relpath(options.output)}")
    return 0


def _prepare_process() -> None:
    """One torch thread: the simulators have the other cores, and single-thread times vary least."""
    from rllib_vla.cli.console import prepare_process

    prepare_process()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    # It announces the new API stack each time a configuration is checked.
    logging.getLogger("ray.rllib.algorithms.algorithm_config").setLevel(logging.ERROR)
