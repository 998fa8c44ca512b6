"""Behaviour shift ("pushcut", section 6.1): how often objects are pushed instead of carried, before and after RL."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rllib_vla.evaluation.comparison import Count, success_estimate
from rllib_vla.evaluation.object_motion import TRANSPORTS
from rllib_vla.evaluation.report import EpisodeResult, SuccessSummary
from rllib_vla.evaluation.videos import read_video, write_filmstrip, write_video
from rllib_vla.experiments import figures, findings
from rllib_vla.experiments.results import RunResults
from rllib_vla.reporting.page import Clip, Section, figure_section

_MAX_CLIPS = 6  # of all arms together, but at least one of each


def behaviour_sections(run: RunResults, out: Path) -> list[Section]:
    """Returns how objects moved where evaluations recorded it, and videos where both have some of the same scenes."""
    sections = _motion_sections(run)
    clips = _side_by_side(run, out)
    if clips:
        text = f"The same scenes: left “{run.report.before}”, right “{run.report.after}”."
        sections.append(Section("Before and after", text, clips=clips))
    return sections


def _motion_sections(run: RunResults) -> list[Section]:
    """Returns a table and a figure."""
    rows, labels, shares = [], [], {mode: [] for mode in TRANSPORTS}
    pushed: dict[tuple[str, str], dict[int, Count]] = {}
    for arm, label in run.arms.items():
        for stage in run.evaluation_stages():
            won = _successful(run, arm, stage)
            if not won:
                continue
            pushed[arm, stage] = _pushed(won)
            all_won = [episode for episodes in _distinct(won) for episode in episodes]
            counts = [sum(e.motion.transport == mode for e in all_won) for mode in TRANSPORTS]
            estimate = success_estimate(list(pushed[arm, stage].values()))
            share = f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
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


def _successful(run: RunResults, arm: str, stage: str) -> dict[int, list[EpisodeResult]]:
    """Seed -> successful episodes with recorded motion, where there are any; one list for seeds of one evaluation."""
    found: dict[int, list[EpisodeResult]] = {}
    same: dict[str, list[EpisodeResult]] = {}
    for seed in run.seeds:
        report = run.evaluation(arm, seed, stage)
        if report is None:
            continue
        digest = run.node(arm, seed, stage).digest
        same.setdefault(digest, [e for e in report.episodes if e.success and e.motion is not None])
        if same[digest]:
            found[seed] = same[digest]
    return found


def _distinct(values: dict[int, Any]) -> list[Any]:
    return list({id(value): value for value in values.values()}.values())


def _pushed(won: dict[int, list[EpisodeResult]]) -> dict[int, Count]:
    """Seed -> how many of the successful episodes moved the object by pushing it."""
    counts = {}
    for episodes in _distinct(won):
        outcomes = [dataclasses.replace(e, success=e.motion.transport == "pushed") for e in episodes]
        counts[id(episodes)] = SuccessSummary.of(outcomes).count
    return {seed: counts[id(episodes)] for seed, episodes in won.items()}


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


def _side_by_side(run: RunResults, out: Path) -> list[Clip]:
    """Puts videos of the same scene before and after reinforcement learning beside each other."""
    clips: list[Clip] = []
    for arm, label in run.arms.items():
        folders = []
        for stage in (run.report.before, run.report.after):
            node = run.node(arm, run.seeds[0], stage) if stage else None
            folders.append({} if node is None else _videos_by_scene(run.folder(node) / "videos"))
        for scene in [scene for scene in folders[0] if scene in folders[1]][: max(1, _MAX_CLIPS // len(run.arms))]:
            videos = [folder[scene] for folder in folders]
            path = out / "report_files" / f"before_after_{arm}_{scene}.mp4"
            (left, fps), (right, _) = map(read_video, videos)
            frames = _joined(left, right)
            write_filmstrip(path.with_suffix(".png"), frames)
            write_video(path, frames, fps=fps)
            outcomes = " → ".join(video.stem.rsplit("_", 1)[1] for video in videos)
            caption = f"{scene.replace('_', ' ')}: {outcomes}" + (f" ({label})" if len(run.arms) > 1 else "")
            clips.append(Clip(caption, path.with_suffix(".png"), path))
    return clips


def _videos_by_scene(folder: Path) -> dict[str, Path]:
    """Returns scene and repeat -> video; names end in the outcome."""
    return {path.stem.rsplit("_", 1)[0]: path for path in sorted(folder.glob("*.mp4"))}


def _joined(left: list[np.ndarray], right: list[np.ndarray]) -> list[np.ndarray]:
    """Frames beside each other; the shorter video stands still at its end."""
    length = max(len(left), len(right))
    padded = [frames + [frames[-1]] * (length - len(frames)) for frames in (left, right)]
    return [np.concatenate(pair, axis=1) for pair in zip(*padded, strict=True)]
