"""What GRPO tells the terminal while an iteration runs."""

from pathlib import Path

from rllib_vla.env_runners.group import CollectedGroup
from rllib_vla.logging.progress_file import ProgressFile


class IterationProgress:
    """Counts groups as they are completed and keeps the trial's progress file up to date.

    Args:
        directory: The trial's directory; None reports nothing.
    """

    def __init__(self, directory: str | Path | None):
        self._file = ProgressFile(directory) if directory is not None else None
        self._iteration = 1
        self._target = 0
        self._num_kept = 0
        self._num_successes = 0
        self._num_trajectories = 0

    def start_iteration(self, iteration: int, groups_target: int) -> None:
        """Sampling begins. `groups_target`: groups with contrast that the train batch needs."""
        self._iteration, self._target = iteration, groups_target
        self._num_kept = self._num_successes = self._num_trajectories = 0
        self._update("sample", groups_collected=0, groups_target=groups_target)

    def group_finished(self, group: CollectedGroup) -> None:
        """A group is complete (not yet filtered)."""
        successes = sum(episode.custom_data["success"] for episode in group.episodes)
        self._num_successes += successes
        self._num_trajectories += len(group.episodes)
        self._num_kept += int(0 < successes < len(group.episodes))
        self._report_groups()

    def groups_kept(self, num_groups: int) -> None:
        """A sampling round is over; `num_groups` have contrast, those carried over among them."""
        self._num_kept = num_groups
        self._report_groups()

    def start_phase(self, phase: str) -> None:
        """Another phase begins: "update" or "evaluate"."""
        self._update(phase)

    def _report_groups(self) -> None:
        fields = {"groups_collected": min(self._num_kept, self._target), "groups_target": self._target}
        if self._num_trajectories:
            fields["success_rate"] = self._num_successes / self._num_trajectories
        self._update("sample", **fields)

    def _update(self, phase: str, **fields: float) -> None:
        if self._file is not None:
            self._file.update(phase, self._iteration, **fields)
