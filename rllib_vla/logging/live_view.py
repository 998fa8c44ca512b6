"""The live table at the bottom of a terminal: one row per running trial."""

from __future__ import annotations

from collections import deque
from typing import Any

from rich.table import Table

from rllib_vla import metrics
from rllib_vla.logging.result_view import (
    evaluation_score,
    format_duration,
    format_phase,
    number,
    training_score,
)

_TREND_LENGTH = 12
_BLOCKS = "▁▂▃▄▅▆▇█"


class TrialRow:
    """What the table knows of one trial.

    Args:
        name: How the trial is called; empty if it is the only one.
        target: Iterations at which it ends; None if something else ends it.
    """

    def __init__(self, name: str, target: int | None):
        self.name = name
        self._target = target
        self._scores: deque[float] = deque(maxlen=_TREND_LENGTH)
        self._flat: dict[str, Any] = {}
        self._evaluation: float | None = None
        self._best: float | None = None
        self._seconds_to_go: float | None = None

    def update(self, flat: dict[str, Any], seconds_to_go: float | None, best: float | None) -> None:
        """Takes in a flattened result, the time to go and the best evaluation so far."""
        self._flat, self._seconds_to_go, self._best = flat, seconds_to_go, best
        if (score := training_score(flat)) is not None:
            self._scores.append(score[1])
        if (score := evaluation_score(flat)) is not None:
            self._evaluation = score[1]

    def cells(self, progress: dict[str, Any] | None, seconds: float) -> list[str]:
        """Returns the row.

        Args:
            progress: Fields of the iteration in progress (`ProgressFile`), None if there is none.
            seconds: How long its phase has lasted.
        """
        done = int(self._flat.get("training_iteration", 0))
        mixed = number(self._flat, f"env_runners/{metrics.SHARE_MIXED_GROUPS}")
        speed = number(self._flat, f"{metrics.SAMPLING_RESULTS}/{metrics.ENV_STEPS_PER_SECOND}")
        best = f" (best {self._best:.2f})" if self._best is not None and self._best != self._evaluation else ""
        return [
            self.name,
            f"{done}/{self._target}" if self._target else str(done),
            f"{self._scores[-1]:.2f} {trend(self._scores)}" if self._scores else "-",
            "-" if self._evaluation is None else f"{self._evaluation:.2f}{best}",
            "-" if mixed is None else f"{mixed:.0%}",
            "-" if speed is None else f"{speed:.0f}",
            "-" if self._seconds_to_go is None else format_duration(self._seconds_to_go),
            "" if progress is None else format_phase(progress, seconds),
        ]


def trend(scores: deque[float]) -> str:
    """Draws scores as a line of blocks, from 0 to 1 or to their own range where they leave it."""
    low, high = min(0.0, *scores), max(1.0, *scores)
    return "".join(_BLOCKS[round((score - low) / (high - low) * (len(_BLOCKS) - 1))] for score in scores)


def live_table(rows: list[list[str]], *, num_ended: int, num_trials: int) -> Table:
    """Returns the table.

    Args:
        rows: From `TrialRow.cells`.
        num_ended: Trials that are over.
        num_trials: Trials in all; with several, rows carry names.
    """
    with_names = num_trials > 1
    header = ["trial", "iteration", "success", "evaluation", "mixed", "steps/s", "left", "now"]
    table = Table(*(header if with_names else header[1:]), box=None, pad_edge=False, header_style="dim")
    if with_names:
        table.caption = f"{num_ended} of {num_trials} trials over"
        table.caption_justify = "left"
    for row in rows:
        table.add_row(*(row if with_names else row[1:]))
    return table
