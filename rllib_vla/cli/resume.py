"""Continuing an experiment from the newest checkpoints that are whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.rllib.utils.annotations import override
from ray.train._internal.session import _TrainingResult
from ray.tune import Callback, Checkpoint, ResumeConfig, Tuner
from ray.tune.experiment import Trial

from rllib_vla.cli.checkpoint_results import read_checkpoint_result
from rllib_vla.cli.checkpoints import check_checkpoint, checkpoint_number, checkpoints_newest_first, find_trials
from rllib_vla.cli.driver_hooks import is_met
from rllib_vla.cli.problems import InputError, readable_path
from rllib_vla.cli.run_record import recorded_stop
from rllib_vla.logging.result_view import read_results

_DAMAGED = ".damaged"


class UseValidCheckpoints(Callback):
    """Points resumed trials to their newest complete checkpoint, before they start.

    Tune takes the checkpoint its last experiment snapshot knows of. That one may be damaged (the disk was full, the
    machine died while it was written), or older than what is on the disk. Damaged ones are renamed, not deleted.

    Args:
        say: Called with one line for the user.
        manifest_required: See `check_checkpoint`.
    """

    def __init__(self, say: Callable[[str], None], *, manifest_required: bool):
        self._say = say
        self._manifest_required = manifest_required
        self._seen: set[str] = set()

    @override(Callback)
    def on_step_begin(self, iteration: int, trials: list[Trial], **info) -> None:
        for trial in trials:
            if trial.trial_id not in self._seen and trial.status == Trial.PENDING:
                self._use_newest(trial)
            self._seen.add(trial.trial_id)

    def _use_newest(self, trial: Trial) -> None:
        trial_dir = Path(trial.storage.trial_fs_path)
        if not trial_dir.is_dir():
            return
        newest = None
        on_disk = checkpoints_newest_first(trial_dir)
        if on_disk:
            # Tune goes on counting from its snapshot, and would write over checkpoints that are newer than that.
            index = max(trial.storage.current_checkpoint_index, checkpoint_number(on_disk[0]))
            trial.storage.current_checkpoint_index = index
        for path in on_disk:
            message = check_checkpoint(path, manifest_required=self._manifest_required)
            if message is None:
                newest = path
                break
            self._say(f"Passed over: {message}")
            path.rename(path.with_name(path.name + _DAMAGED))
        manager = trial.run_metadata.checkpoint_manager
        whole = [result for result in manager._checkpoint_results if Path(result.checkpoint.path).is_dir()]
        if newest is None:
            latest = None
        else:
            known = {Path(result.checkpoint.path): result for result in whole}
            latest = known.get(newest) or _TrainingResult(
                Checkpoint(str(newest)), metrics=read_checkpoint_result(newest)
            )
            if latest not in whole:
                whole.append(latest)
                if manager.checkpoint_config.checkpoint_score_attribute:
                    whole.sort(key=manager._get_checkpoint_score)  # Tune keeps the end of the list
        manager._checkpoint_results = whole
        manager._latest_checkpoint_result = latest
        trial.invalidate_json_state()
        where = readable_path(newest) if newest else "the beginning (there is no complete checkpoint)"
        self._say(f"Resuming trial {trial.trial_id} from {where}")


def find_experiment(storage_path: str, name: str) -> Path:
    """Returns the newest directory of an experiment that can be resumed.

    Args:
        storage_path: Local directory of experiments.
        name: Name of the experiment; later runs of it have a time stamp appended.

    Raises:
        InputError: There is none.
    """
    root = Path(storage_path)
    # Later runs of an experiment carry a time stamp, see `runner._directory`.
    pattern = re.compile(re.escape(name) + r"(_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)?")
    candidates = [path for path in root.glob(f"{name}*") if pattern.fullmatch(path.name)]
    resumable = [path for path in candidates if Tuner.can_restore(str(path))]
    if not resumable:
        reason = "it was stopped before its first snapshot" if candidates else "there is no such directory"
        where = readable_path(root / name)
        raise InputError(f"cannot resume {where}: {reason}. Start it without --resume.")
    return max(resumable, key=lambda path: max(file.stat().st_mtime for file in path.iterdir()))


def resume_config(experiment_dir: Path, stop: dict[str, Any]) -> ResumeConfig:
    """Continues unfinished and failed trials, and finished ones if new stop criteria leave them something to do.

    Trials that a scheduler ended, before any criterion was met, stay as they are.
    """
    recorded = recorded_stop(experiment_dir)
    last_results = [results[-1] for trial in find_trials(experiment_dir) if (results := read_results(trial))]
    finished = [result for result in last_results if result.get("done") and is_met(recorded, result)]
    more_to_do = any(not is_met(stop, result) for result in finished)
    resume, skip = ResumeConfig.ResumeType.RESUME, ResumeConfig.ResumeType.SKIP
    return ResumeConfig(finished=resume if more_to_do else skip, unfinished=resume, errored=resume)
