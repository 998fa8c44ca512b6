"""What an evaluation found: per task and overall, as JSON and as a Markdown table."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rllib_vla.atomic_file import write_text_atomically
from rllib_vla.evaluation.comparison import Count
from rllib_vla.evaluation.confidence import wilson_interval
from rllib_vla.evaluation.object_motion import TRANSPORTS, ObjectMotion

EVALUATION_FILE = "evaluation.json"
GREEDY = "greedy"


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        task: Name of the task.
        scene_index: Which initial state of the split.
        repeat: Which repeat of that scene.
        success: Whether the simulator reported success within the step limit.
        num_control_steps: Control steps executed.
        motion: How the task's object moved, if that was recorded.
    """

    task: str
    scene_index: int
    repeat: int
    success: bool
    num_control_steps: int
    motion: ObjectMotion | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EpisodeResult:
        """Reads what `dataclasses.asdict` gave."""
        motion = values.get("motion")
        return cls(**(values | {"motion": None if motion is None else ObjectMotion(**motion)}))


@dataclass(frozen=True)
class SuccessSummary:
    """Success of a set of episodes, with its 95 % Wilson interval.

    Attributes:
        num_episodes: Episodes.
        num_successes: Successful ones.
        success_rate: Their share.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        num_independent: Episodes that the interval counts, see `num_independent_episodes`.
        mean_steps: Mean control steps of all episodes.
        mean_steps_success: Mean control steps of the successful ones; None without any.
    """

    num_episodes: int
    num_successes: int
    success_rate: float
    low: float
    high: float
    num_independent: int
    mean_steps: float
    mean_steps_success: float | None

    @property
    def count(self) -> Count:
        """The rate, in as many episodes as are independent."""
        return Count(self.success_rate * self.num_independent, self.num_independent)

    @classmethod
    def of(cls, episodes: list[EpisodeResult]) -> SuccessSummary:
        """Summarises at least one episode."""
        n = len(episodes)
        won = [e for e in episodes if e.success]
        independent = num_independent_episodes(episodes)
        low, high = wilson_interval(len(won) * independent / n, independent)
        mean_won = sum(e.num_control_steps for e in won) / len(won) if won else None
        mean = sum(e.num_control_steps for e in episodes) / n
        return cls(n, len(won), len(won) / n, low, high, independent, mean, mean_won)


def num_independent_episodes(episodes: list[EpisodeResult]) -> int:
    """How many episodes of as many scenes would tell as much (Kish's effective sample size of a clustered sample).

    Repeats that always agree, as greedy ones do, are one episode; repeats that differ as much as those of other scenes
    are one each. Nothing is known of repeats that all succeed or all fail in every scene of a task: they count once.
    """
    by_scene: dict[str, dict[int, list[bool]]] = {}
    for episode in episodes:
        by_scene.setdefault(episode.task, {}).setdefault(episode.scene_index, []).append(episode.success)
    num_scenes = sum(map(len, by_scene.values()))
    repeats = len(episodes) / num_scenes
    between = within_one = 0.0  # variance of a scene's rate, and of a single episode, summed over tasks
    for scenes in by_scene.values():
        rates = [statistics.fmean(outcomes) for outcomes in scenes.values()]
        mean = statistics.fmean(rates)
        if len(rates) > 1:
            between += statistics.variance(rates)
            within_one += mean * (1 - mean)
    design_effect = repeats * between / within_one if within_one else repeats
    return round(len(episodes) / min(repeats, max(1.0, design_effect)))


@dataclass(frozen=True)
class EvaluationReport:
    """All episodes of one evaluation and how they came about.

    Attributes:
        suite: Name of the suite.
        split: Split of the scenes.
        decoding: ``greedy``, or ``sampled at T=…``.
        seed: Seed of the action sampling.
        policy: What was evaluated (a path or a name).
        episodes: Results in the order of the protocol.
        num_simulator_failures: Episodes lost to a simulator that failed; they are not among `episodes`.
    """

    suite: str
    split: str
    decoding: str
    seed: int
    policy: str
    episodes: list[EpisodeResult] = field(repr=False)
    num_simulator_failures: int = 0

    @property
    def overall(self) -> SuccessSummary:
        """Summary over all episodes (tasks weigh equally: the protocol gives each the same number)."""
        return SuccessSummary.of(self.episodes)

    @property
    def per_task(self) -> dict[str, SuccessSummary]:
        """Summary per task, in the order of the protocol."""
        names = dict.fromkeys(e.task for e in self.episodes)
        return {name: SuccessSummary.of([e for e in self.episodes if e.task == name]) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the fields, ``overall`` and ``per_task``."""
        return dataclasses.asdict(self) | {
            "overall": dataclasses.asdict(self.overall),
            "per_task": {name: dataclasses.asdict(s) for name, s in self.per_task.items()},
        }

    def to_markdown(self) -> str:
        """A table with one row per task and one for all."""
        lines = [
            f"**{self.policy}** on {self.suite} ({self.split} scenes), {self.decoding}",
            "",
            "| task | success | 95 % interval | episodes | mean steps | mean steps when successful |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for name, s in [*self.per_task.items(), ("**all**", self.overall)]:
            steps = "-" if s.mean_steps_success is None else f"{s.mean_steps_success:.1f}"
            lines.append(
                f"| {name} | {100 * s.success_rate:.1f} % | {100 * s.low:.1f} to {100 * s.high:.1f} % "
                f"| {s.num_episodes} | {s.mean_steps:.1f} | {steps} |"
            )
        lines += self._motion_lines()
        if self.num_simulator_failures:
            lines += ["", f"{self.num_simulator_failures} episodes were lost to failed simulators."]
        return "\n".join(lines) + "\n"

    def _motion_lines(self) -> list[str]:
        """A table of how objects were transported in successful episodes."""
        moved = [(e, e.motion) for e in self.episodes if e.motion is not None]
        if not moved:
            return []
        lines = [
            "",
            "| task (successful episodes) | " + " | ".join(TRANSPORTS) + " |",
            "|---|" + "---:|" * len(TRANSPORTS),
        ]
        for name in dict.fromkeys(e.task for e, _ in moved):
            won = [motion.transport for e, motion in moved if e.task == name and e.success]
            lines.append(f"| {name} ({len(won)}) | " + " | ".join(str(won.count(mode)) for mode in TRANSPORTS) + " |")
        return lines

    def save(self, folder: str | Path) -> Path:
        """Writes ``evaluation.json`` and ``evaluation.md`` into `folder` and returns it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {EVALUATION_FILE: json.dumps(self.to_dict(), indent=2), "evaluation.md": self.to_markdown()}
        for name, text in texts.items():
            write_text_atomically(folder / name, text)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> EvaluationReport:
        """Reads what `save` wrote."""
        values = json.loads((Path(folder) / EVALUATION_FILE).read_text())
        values = {f.name: values[f.name] for f in dataclasses.fields(cls)}
        values["episodes"] = [EpisodeResult.from_dict(e) for e in values["episodes"]]
        return cls(**values)
