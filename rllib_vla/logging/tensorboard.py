"""TensorBoard beyond plain scalars: a layout that groups them, episodes as film strips, hyper-parameters, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ray.rllib.utils.annotations import override
from ray.tune.experiment import Trial
from ray.tune.logger import TBXLoggerCallback
from tensorboardX.summary import hparams

from rllib_vla import metrics
from rllib_vla.logging.result_file import searched_values

_PREFIX = "ray/tune/"
_LEARNER = "learners/default_policy/"
# Category -> chart -> tags, the way docs/metrics.md groups them; a tag may be a regular expression.
LAYOUT: dict[str, dict[str, list[str]]] = {
    "1 Is it learning?": {
        "success rate": [f"evaluation/{metrics.SUCCESS_RATE}", f"env_runners/{metrics.SUCCESS_RATE}"],
        "evaluated success by task": [f"evaluation/{metrics.TASK_SUCCESS_RATE}/.*"],
        "sampled success by task": [f"env_runners/{metrics.TASK_SUCCESS_RATE}/.*"],
        "trajectory length [control steps]": [
            f"evaluation/{metrics.TRAJECTORY_LENGTH}",
            f"env_runners/{metrics.TRAJECTORY_LENGTH}",
        ],
    },
    "2 Is there a learning signal?": {
        "groups by outcome": [
            f"env_runners/{name}"
            for name in (
                metrics.SHARE_MIXED_GROUPS,
                metrics.SHARE_ALL_SUCCESS_GROUPS,
                metrics.SHARE_ALL_FAIL_GROUPS,
            )
        ],
        "groups in the update": [
            f"{metrics.SAMPLING_RESULTS}/{name}"
            for name in (metrics.NUM_GROUPS_TRAINED, metrics.NUM_GROUPS_CARRIED_OVER, metrics.NUM_GROUPS_STALE)
        ],
        "sampling rounds": [f"{metrics.SAMPLING_RESULTS}/{metrics.NUM_SAMPLING_ROUNDS}"],
    },
    "3 Is the update sound?": {
        "clipped tokens": [f"{_LEARNER}{name}" for name in (metrics.CLIP_FRACTION_LOW, metrics.CLIP_FRACTION_HIGH)],
        "divergence from the sampling policy": [f"{_LEARNER}{metrics.APPROX_KL}"],
        "entropy": [f"{_LEARNER}{metrics.ENTROPY}"],
        "gradient norm": [f"{_LEARNER}gradients_default_optimizer_global_norm"],
        "largest ratio deviation": [f"{_LEARNER}{metrics.RATIO_MAX_DEVIATION}"],
        "loss": [f"{_LEARNER}{metrics.POLICY_LOSS}"],
    },
    "4 Is it fast?": {
        "seconds per iteration": [
            *(f"{metrics.TIME_SPLIT}/{name}" for name in (metrics.TIME_SAMPLE, metrics.TIME_UPDATE, metrics.TIME_SYNC)),
            f"evaluation/{metrics.TIME_EVALUATE}",
        ],
        "control steps per second": [f"{metrics.SAMPLING_RESULTS}/{metrics.ENV_STEPS_PER_SECOND}"],
    },
    "5 Is anything breaking?": {
        "simulator failures and lost groups": [
            f"env_runners/{metrics.NUM_SIMULATOR_FAILURES}",
            f"env_runners/{metrics.NUM_GROUPS_LOST}",
        ],
        "skipped optimizer steps": [f"{_LEARNER}{metrics.NUM_NONFINITE_UPDATES}"],
    },
}
# What the HPARAMS tab compares trials by: the newest value of these scalars.
_HPARAM_METRICS = (
    f"evaluation/{metrics.SUCCESS_RATE}",
    f"env_runners/{metrics.SUCCESS_RATE}",
    f"env_runners/{metrics.SHARE_MIXED_GROUPS}",
)
# Settings that it shows besides the searched ones.
_HPARAMS = (
    "temperature",
    "clip_param_low",
    "clip_param_high",
    "lr",
    "group_size",
    "num_groups_per_train_batch",
    "minibatch_size",
    "num_epochs",
    "advantage_estimator",
    "seed",
)
_BORDER = 4  # pixels
_OUTCOME_COLORS = {"success": (0, 158, 115), "failure": (213, 94, 0)}


class TensorBoardCallback(TBXLoggerCallback):
    """Takes the place of Tune's own TensorBoard logger (one writer per run, as TensorBoard wants it).

    Args:
        text: For the TEXT tab: settings, versions, commit.
        with_layout: Whether results have the names of `LAYOUT` (those of GRPO).
    """

    def __init__(self, text: str, *, with_layout: bool):
        super().__init__()
        self._text = text
        self._with_layout = with_layout
        self._shown: dict[str, set[Path]] = {}

    @override(TBXLoggerCallback)
    def log_trial_start(self, trial: Trial) -> None:
        super().log_trial_start(trial)
        writer = self._trial_writer[trial]
        if self._with_layout:
            writer.add_custom_scalars(
                {
                    category: {
                        chart: ["Multiline", [f"{_PREFIX}{tag}$" for tag in tags]] for chart, tags in charts.items()
                    }
                    for category, charts in LAYOUT.items()
                }
            )
        writer.add_text("settings", f"```\n{self._text}\n```")
        if searched := searched_values(trial):
            writer.add_text("searched", "\n".join(f"- {name}: {value}" for name, value in searched.items()))
        experiment, start, _ = hparams(_hparams(trial), {f"{_PREFIX}{tag}": 0.0 for tag in _HPARAM_METRICS})
        for summary in (experiment, start):
            writer.file_writer.add_summary(summary)
        writer.flush()

    @override(TBXLoggerCallback)
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        super().log_trial_result(iteration, trial, result)
        self._add_film_strips(trial)

    @override(TBXLoggerCallback)
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._trial_writer:
            self._add_film_strips(trial)
            self._trial_writer.pop(trial).close()
            self._trial_result.pop(trial, None)

    def _add_film_strips(self, trial: Trial) -> None:
        """Shows new film strips; those of trials on other machines are not within reach."""
        shown = self._shown.setdefault(trial.trial_id, set())
        folder = Path(trial.storage.trial_working_directory) / "videos"
        for path in sorted(set(folder.glob("iteration_*/*.png")) - shown):
            shown.add(path)
            scene, _, outcome = path.stem.rpartition("_")
            # One tag per scene, so that TensorBoard's slider runs through the iterations.
            step = int(path.parent.name.removeprefix("iteration_"))
            picture = framed(path, _OUTCOME_COLORS.get(outcome, (128, 128, 128)))
            self._trial_writer[trial].add_image(f"episodes/{scene}", picture, global_step=step, dataformats="HWC")
        self._trial_writer[trial].flush()


def framed(path: Path, color: tuple[int, int, int]) -> np.ndarray:
    """Returns a picture with a coloured border, uint8 [H, W, 3]."""
    with Image.open(path) as picture:
        inner = np.asarray(picture.convert("RGB"))
    height, width, _ = inner.shape
    outer = np.empty((height + 2 * _BORDER, width + 2 * _BORDER, 3), np.uint8)
    outer[:] = color
    outer[_BORDER:-_BORDER, _BORDER:-_BORDER] = inner
    return outer


def _hparams(trial: Trial) -> dict[str, Any]:
    values = {name: trial.config.get(name) for name in _HPARAMS} | searched_values(trial)
    return {
        name: value if isinstance(value, str | bool | int | float) else str(value)
        for name, value in values.items()
        if value is not None
    }
