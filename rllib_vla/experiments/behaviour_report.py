"""Behaviour shift ("pushcut", section 6.1): how often objects are pushed instead of carried, before and after RL."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from rllib_vla.evaluation.comparison import Count, distinct, success_estimate
from rllib_vla.evaluation.object_motion import TRANSPORTS
from rllib_vla.evaluation.report import EpisodeResult, EvaluationReport, SuccessSummary
from rllib_vla.evaluation.videos import episode_name, read_video, write_filmstrip, write_video
from rllib_vla.experiments import figures, findings
from rllib_vla.experiments.results import RunResults, of_each
from rllib_vla.reporting.page import Clip, Section, figure_section

_MAX_CLIPS = 6  # of all arms together, but at least one of each


def behaviour_sections(run: RunResults, out: Path) -> list[Section]:
    """Returns how objects moved where evaluations recorded it, and videos where both have some of the same scenes."""
    sections = _motion_sections(run)
    clips = _side_by_side(run, out)
    if clips:
        text = f"The same scenes: left “{run.report.before}”, right “{run.report.after}”."
        text += " Those where success came in another way stand first." if sections else ""
        sections.append(Section("Before and after", text, clips=clips))
    return sections


def _motion_sections(run: RunResults) -> list[Section]:
    """Returns a table and a figure."""
    rows, labels, shares = [], [], {mode: [] for mode in TRANSPORTS}
    pushed: dict[tuple[str, str], dict[int, Count]] = {}
    for arm, label in run.arms.items():
        for stage in run.evaluation_stages():
            won = of_each(run.evaluations(arm, stage), _successful)
            if not won:
                continue
            pushed[arm, stage] = of_each(won, _pushed)
            all_won = [episode for episodes in distinct(won.values()) for episode in episodes]
            counts = [sum(e.motion.transport == mode for e in all_won) for mode in TRANSPORTS]
            share = success_estimate(list(pushed[arm, stage].values())).percent()
            grasped = sum(e.motion.grasped for e in all_won) / len(all_won)
            rows.append(
                [label, stage.replace("_", " "), str(len(all_won)), *map(str, counts), share, f"{100 * grasped:.0f}"]
            )
            labels.append(f"{label}, {stage.replace('_', ' ')}" if len(run.arms) > 1 else stage.replace("_", " "))
            for mode, count in zip(TRANSPORTS, counts, strict=True):
                shares[mode].append(count / len(all_won))
    if not rows:
        return []
    header = ["arm", "evaluation", "successful episodes", *TRANSPORTS, "pushed (%)", "ever grasped (%)"]
    text = (
        "How the object went most of its way in successful episodes: carried (grasped and lifted by more than a "
        "centimetre), dragged (grasped, not lifted), pushed (touched, not grasped), free (not touched)."
        + _shift_text(run, pushed)
    )
    sections = [Section("How objects are moved", text, table=(header, rows))]
    return [*sections, figure_section("", "", "transport", figures.shares_figure(labels, shares))]


def _successful(report: EvaluationReport) -> list[EpisodeResult] | None:
    """Successful episodes with recorded motion; None without any."""
    return [e for e in report.episodes if e.success and e.motion is not None] or None


def _pushed(won: list[EpisodeResult]) -> Count:
    """How many of the successful episodes moved the object by pushing it."""
    return SuccessSummary.of([dataclasses.replace(e, success=e.motion.transport == "pushed") for e in won]).count


def _shift_text(run: RunResults, pushed: dict[tuple[str, str], dict[int, Count]]) -> str:
    parts = []
    for arm, label in run.arms.items():
        before, after = (pushed.get((arm, stage), {}) for stage in (run.report.before, run.report.after))
        e = findings.difference(before, after)
        if e is None:
            continue
        verdict = "a shift" if e.excludes_zero else "no shift is shown: the interval contains 0"
        parts.append(
            f" {label}: the share of pushed objects changes by {100 * e.value:+.1f} percentage points "
            f"({100 * e.low:+.1f} to {100 * e.high:+.1f}): {verdict}."
        )
    return "".join(parts)


@dataclasses.dataclass(frozen=True)
class _Recording:
    """A recorded episode.

    Attributes:
        video: Its file.
        way: How the object was moved; None for failures and where motion was not recorded.
    """

    video: Path
    way: str | None

    @property
    def outcome(self) -> str:
        """What the caption says of it."""
        outcome = self.video.stem.rsplit("_", 1)[1]
        return outcome if self.way is None else f"{outcome} ({self.way})"


def _side_by_side(run: RunResults, out: Path) -> list[Clip]:
    """Puts videos of the same scene before and after reinforcement learning beside each other."""
    clips: list[Clip] = []
    most = max(1, _MAX_CLIPS // len(run.arms))
    for arm, label in run.arms.items():
        before, after = (_recordings(run, arm, stage) for stage in (run.report.before, run.report.after))
        pairs = {scene: (before[scene], after[scene]) for scene in before if scene in after}
        for scene in sorted(pairs, key=lambda scene: not _came_another_way(*pairs[scene]))[:most]:
            path = out / "report_files" / f"before_after_{arm}_{scene}.mp4"
            (left, fps), (right, _) = (read_video(recording.video) for recording in pairs[scene])
            frames = _joined(left, right)
            write_filmstrip(path.with_suffix(".png"), frames)
            write_video(path, frames, fps=fps)
            outcomes = " → ".join(recording.outcome for recording in pairs[scene])
            caption = f"{scene.replace('_', ' ')}: {outcomes}" + (f" ({label})" if len(run.arms) > 1 else "")
            clips.append(Clip(caption, path.with_suffix(".png"), path))
    return clips


def _came_another_way(before: _Recording, after: _Recording) -> bool:
    return None not in (before.way, after.way) and before.way != after.way


def _recordings(run: RunResults, arm: str, stage: str | None) -> dict[str, _Recording]:
    """Returns scene and repeat -> recording of an arm's first seed; names of videos end in the outcome."""
    node = None if stage is None else run.node(arm, run.seeds[0], stage)
    if node is None:
        return {}
    report = run.evaluation(arm, run.seeds[0], node.stage)
    won = [] if report is None else _successful(report) or []
    ways = {episode_name(e.task, report.split, e.scene_index, e.repeat): e.motion.transport for e in won}
    videos = sorted((run.folder(node) / "videos").glob("*.mp4"))
    scenes = [video.stem.rsplit("_", 1)[0] for video in videos]
    return {scene: _Recording(video, ways.get(scene)) for scene, video in zip(scenes, videos, strict=True)}


def _joined(left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """Frames beside each other; the shorter video stands still at its end."""
    length = max(len(left), len(right))
    padded = [frames + [frames[-1]] * (length - len(frames)) for frames in (left, right)]
    return [np.concatenate(pair, axis=1) for pair in zip(*padded, strict=True)]
