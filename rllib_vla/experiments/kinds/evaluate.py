"""Stage kind `evaluate`: success rate of a policy, `rllib evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import envs
from envs.base import UnavailableError
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.evaluation.report import EVALUATION_FILE
from rllib_vla.evaluation.videos import check_scenes_are_played, parse_videos
from rllib_vla.experiments.kinds.base import CHECKPOINT, POLICY, RLLIB, StageKind, StageRun, StageText

_DEFAULTS: dict[str, Any] = {"split": "eval", "repeats": 1, "seed": 0}
# Those of `rllib evaluate` that have a key of the same name.
_OPTIONS = (
    *("suite", "split", "num_scenes", "repeats", "temperature", "seed", "num_simulators", "videos", "dtype"),
    "unnorm_key",
)


class EvaluateKind(StageKind):
    """Plays the same scenes with the same seed for every arm and seed, so that arms can be compared."""

    name = "evaluate"
    keys = {
        "policy": str,
        "suite": str,
        "tasks": list[str] | None,
        "split": str,
        "num_scenes": int | None,
        "repeats": int,
        "temperature": float | None,
        "seed": int,
        "num_simulators": int,
        "videos": str | int,
        "object_motion": bool,
        "dtype": Literal["float32", "bfloat16"] | None,
        "unnorm_key": str | None,
        "env_config": dict | None,
    }
    required = ("policy", "suite")
    inputs = {"policy": (POLICY, CHECKPOINT)}

    def check(self, text: StageText) -> dict[str, Any]:
        settings = _DEFAULTS | {key: value for key, value in text.values.items() if key != "policy"}
        played: list[int] | None = None
        try:
            tasks = settings.get("tasks")
            episodes = EvaluationProtocol(
                settings["suite"],
                settings["split"],
                None if tasks is None else tuple(tasks),
                settings.get("num_scenes"),
                settings["repeats"],
            ).episodes(settings.get("env_config"))
            played = [scene.index for scene, _ in episodes]
            envs.make_spaces(settings["suite"], **(settings.get("env_config") or {}))
            if settings.get("object_motion") and not envs.tells_object_states(settings["suite"]):
                text.report(("object_motion",), f"suite {settings['suite']!r} does not tell where objects are")
        except UnavailableError as error:
            text.report_absent(("suite",), str(error))
        except ValueError as error:
            culprits = [key for key in settings if repr(settings[key]) in str(error) or key in str(error)]
            inner = [task for task in settings.get("tasks") or () if repr(task) in str(error)]
            text.report(("tasks",) if inner else tuple(culprits[:1]), str(error))
        temperature = settings.get("temperature")
        if temperature is not None and temperature <= 0:
            text.report(("temperature",), f"must be positive, got {temperature}; leave it out to decode greedily")
        try:
            videos = parse_videos(str(settings.get("videos", 0)))
            if played is not None:
                check_scenes_are_played(videos, played)
        except ValueError as error:
            text.report(("videos",), str(error))
        if settings.get("num_simulators", 0) < 0:
            text.report(("num_simulators",), f"must not be negative, got {settings['num_simulators']}")
        return settings

    def prepare(self, run: StageRun) -> list[str]:
        settings = run.settings
        command = [*RLLIB, "evaluate", run.inputs["policy"], "--out", str(run.folder)]
        for key in _OPTIONS:
            if settings.get(key) is not None:
                command += ["--" + key.replace("_", "-"), str(settings[key])]
        if settings.get("tasks"):
            command += ["--tasks", ",".join(settings["tasks"])]
        if settings.get("object_motion"):
            command.append("--object-motion")
        if settings.get("env_config"):
            command += ["--config", json.dumps(settings["env_config"])]
        return command

    def output_path(self, folder: Path) -> Path:
        return folder / EVALUATION_FILE
