"""TensorBoard beyond plain scalars: a layout that groups them, episodes as film strips, hyper-parameters, settings."""

from __future__ import annotations

import re
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
from rllib_vla.logging.result_view import flatten

_LEARNER = "learners/default_policy/"
# Category -> chart -> tags, the way docs/metrics.md groups them; a tag may be a regular expression. TensorBoard gives
# all lines of a run one colour, so a chart holds what is read together, and else one tag.
LAYOUT: dict[str, dict[str, list[str]]] = {
    "1 Is it learning?": {
        "success, greedy on held-out scenes": [f"evaluation/{metrics.SUCCESS_RATE}"],
        "success, sampled in training": [f"env_runners/{metrics.SUCCESS_RATE}"],
        "sampled trajectory length [control steps]": [f"env_runners/{metrics.TRAJECTORY_LENGTH}"],
        "greedy success by task": [f"evaluation/{metrics.TASK_SUCCESS_RATE}/.*"],
        "sampled success by task": [f"env_runners/{metrics.TASK_SUCCESS_RATE}/.*"],
    },
    "2 Is there a learning signal?": {
        "mixed groups [share]": [f"env_runners/{metrics.SHARE_MIXED_GROUPS}"],
        "groups in which all succeed [share]": [f"env_runners/{metrics.SHARE_ALL_SUCCESS_GROUPS}"],
        "groups in which all fail [share]": [f"env_runners/{metrics.SHARE_ALL_FAIL_GROUPS}"],
        "groups in the update": [f"{metrics.SAMPLING_RESULTS}/{metrics.NUM_GROUPS_TRAINED}"],
        "groups carried over, and dropped as stale": [
            f"{metrics.SAMPLING_RESULTS}/{name}" for name in (metrics.NUM_GROUPS_CARRIED_OVER, metrics.NUM_GROUPS_STALE)
        ],
        "sampling rounds": [f"{metrics.SAMPLING_RESULTS}/{metrics.NUM_SAMPLING_ROUNDS}"],
    },
    "3 Is the update sound?": {
        "tokens clipped from above [share]": [f"{_LEARNER}{metrics.CLIP_FRACTION_HIGH}"],
        "tokens clipped from below [share]": [f"{_LEARNER}{metrics.CLIP_FRACTION_LOW}"],
        "divergence from the sampling policy [nats]": [f"{_LEARNER}{metrics.APPROX_KL}"],
        "entropy [nats]": [f"{_LEARNER}{metrics.ENTROPY}"],
        "gradient norm": [f"{_LEARNER}gradients_default_optimizer_global_norm"],
        "largest ratio deviation": [f"{_LEARNER}{metrics.RATIO_MAX_DEVIATION}"],
        "loss": [f"{_LEARNER}{metrics.POLICY_LOSS}"],
    },
    "4 Is it fast?": {
        "sampling [s]": [f"{metrics.TIME_SPLIT}/{metrics.TIME_SAMPLE}"],
        "update [s]": [f"{metrics.TIME_SPLIT}/{metrics.TIME_UPDATE}"],
        "evaluation [s]": [f"evaluation/{metrics.TIME_EVALUATE}"],
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
# Settings that it shows besides the searched ones; it opens with five columns, so there are no more.
_HPARAMS = ("temperature", "clip_param_low", "clip_param_high", "lr", "seed")
# What stays in result.json only: RLlib's bookkeeping, of which there are some fifty scalars.
_HIDDEN = re.compile(
    r"config/|pid$|timestamp$|done$|training_iteration$|time_since_restore$|iterations_since_restore$|timers/"
    r"|env_runner_group/|num_training_step_calls|evaluation_at_start/|learners/__all_modules__/|.*timers?(/|$)"
    r"|.*throughput"
)
_BORDER = 4  # pixels
_OUTCOME_COLORS = {"success": (0, 158, 115), "failure": (213, 94, 0)}


def is_shown(tag: str) -> bool:
    """Whether TensorBoard shows a result; the others are in ``result.json`` only."""
    return not _HIDDEN.match(tag)


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
                    category: {chart: ["Multiline", [f"^{tag}$" for tag in tags]] for chart, tags in charts.items()}
                    for category, charts in LAYOUT.items()
                }
            )
        writer.add_text("settings", f"```\n{self._text}\n```")
        if searched := searched_values(trial):
            writer.add_text("searched", "\n".join(f"- {name}: {value}" for name, value in searched.items()))
        experiment, start, _ = hparams(_hparams(trial), dict.fromkeys(_HPARAM_METRICS, 0.0))
        for summary in (experiment, start):
            writer.file_writer.add_summary(summary)
        writer.flush()

    @override(TBXLoggerCallback)
    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        step = result["training_iteration"]
        if step == 1:
            at_start = {"evaluation": result.get("evaluation_at_start") or {}}
            self._add_scalars(trial, at_start, 0)
        self._add_scalars(trial, result, step)
        self._add_film_strips(trial)

    @override(TBXLoggerCallback)
    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._trial_writer:
            self._add_film_strips(trial)
            self._trial_writer.pop(trial).close()

    def _add_scalars(self, trial: Trial, result: dict[str, Any], step: int) -> None:
        """Writes numbers under their own names; Tune's logger would put ``ray/tune/`` in front of all."""
        for tag, value in flatten(result).items():
            if is_shown(tag) and isinstance(value, int | float | np.number) and np.isfinite(value):
                self._trial_writer[trial].add_scalar(tag, value, global_step=step)

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
