"""Ctrl-C that leaves a resumable checkpoint.

Tune itself reacts to SIGINT by killing the trials: what they learned since their last checkpoint is lost. Here
the first signal lets every running trial finish its iteration and write a checkpoint, then ends the experiment
with the trials marked as unfinished, so that ``--resume`` goes on from there. A second signal ends it at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ray.rllib.utils.annotations import override
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.result import SHOULD_CHECKPOINT

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptCallback(Callback):
    """Turns SIGINT and SIGTERM into "checkpoint, then stop"; a context manager around `Tuner.fit`.

    Tune's own handler has to be switched off (``TUNE_DISABLE_SIGINT_HANDLER=1``). Its SIGUSR1 handler, which ends
    the experiment in an orderly way, is what this class uses in the end.

    Args:
        say: Called with one line for the user.
    """

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._num_signals = 0
        self._saved: set[str] = set()
        self._stopping = False
        self._previous: dict[int, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether the user asked to stop."""
        return self._num_signals > 0

    def __enter__(self) -> InterruptCallback:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_signals += 1
        if self._num_signals == 1:
            self._say(
                "Stopping: every trial finishes its iteration and writes a checkpoint. "
                "Press Ctrl-C again to stop at once (the last checkpoint is kept)."
            )
        elif self._num_signals == 2:
            self._say("Stopping at once.")
            self._end_experiment()
        else:
            raise KeyboardInterrupt

    def _end_experiment(self) -> None:
        if not self._stopping:
            self._stopping = True
            signal.raise_signal(signal.SIGUSR1)

    @override(Callback)
    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info
    ) -> None:
        if self.interrupted:
            result[SHOULD_CHECKPOINT] = True

    @override(Callback)
    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info) -> None:
        if self.interrupted:
            self._saved.add(trial.trial_id)

    @override(Callback)
    def on_step_end(self, iteration: int, trials: list[Trial], **info) -> None:
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        if self.interrupted and running <= self._saved:
            self._end_experiment()
