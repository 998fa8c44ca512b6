"""How figures are shown and stored."""

import dataclasses
import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.measure import Figure

_PACKAGES = ("torch", "ray", "mujoco", "robosuite", "numpy")


def make_table(title: str, figures: Sequence[Figure]) -> Table:
    """Returns the figures of one benchmark as a table, both absolute values beside each ratio."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("measured")
    table.add_column("value", justify="right")
    table.add_column("against")
    table.add_column("value", justify="right")
    table.add_column("ratio", justify="right", style="bold")
    table.add_column("single rounds", justify="right", style="dim")
    for figure in figures:
        low, high = (format_ratio(ratio, figure.kind) for ratio in figure.ratio_range)
        table.add_row(
            figure.what,
            f"{_format(figure.value)} {figure.unit}",
            figure.baseline,
            f"{_format(figure.baseline_value)} {figure.unit}",
            format_ratio(figure.ratio, figure.kind),
            f"{low} .. {high}",
        )
    return table


def format_ratio(ratio: float, kind: str) -> str:
    """Formats a speed-up as "3.4x" and a share as "12.3 %"."""
    return f"{100 * ratio:.1f} %" if kind == "share" else f"{_format(ratio)}x"


def describe_machine() -> dict[str, Any]:
    """Returns what the figures depend on: processor, cores, load (runnable processes, 1 min mean), versions."""
    return {
        "processor": _processor_name(),
        "num_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {package: version(package) for package in _PACKAGES},
    }


def write_results(path: Path, machine: Mapping[str, Any], quick: bool, results: Mapping[str, Sequence[Figure]]) -> None:
    """Writes one run as JSON: when, where, at which sizes, and the figures per benchmark."""
    document = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine,
        "results": {name: [dataclasses.asdict(figure) for figure in figures] for name, figures in results.items()},
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def _format(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
