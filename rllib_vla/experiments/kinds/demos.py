"""Stage kind `demos`: demonstrations of the scripted experts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import envs
from envs.base import UnavailableError
from envs.demonstrations import FILE_SUFFIX, expert_suites
from rllib_vla.cli.problems import did_you_mean
from rllib_vla.experiments.kinds.base import DEMOS, StageKind, StageRun, StageText

_DEFAULTS: dict[str, Any] = {
    "suite": "libero_blocks",
    "num_demos": 50,
    "action_noise": 0.0,
    "wander_steps": 0,
    "image_size": 96,
    "seed": 0,
}


class DemosKind(StageKind):
    """Records `num_demos` successful demonstrations per task; the same for all seeds of an experiment."""

    name = "demos"
    keys = {
        "suite": str,
        "tasks": list[str],
        "num_demos": int,
        "action_noise": float,
        "wander_steps": int,
        "image_size": int,
        "seed": int,
        "env_config": dict,
    }
    required = ("tasks",)
    output = DEMOS

    def check(self, text: StageText) -> dict[str, Any]:
        settings = _DEFAULTS | text.values
        if settings["suite"] not in expert_suites():
            text.report(("suite",), f"has no scripted experts; {did_you_mean(settings['suite'], expert_suites())}")
            return settings
        try:
            envs.list_scenes(settings["suite"], "train", settings["tasks"])
        except ValueError as error:
            text.report(("tasks",), str(error))
        try:
            _, actions = envs.make_spaces(settings["suite"], **settings.get("env_config", {}))
            if settings["wander_steps"] > actions.shape[0]:
                limit = f"must be at most {actions.shape[0]}, the environment's chunk size"
                text.report(("wander_steps",), f"{limit}, got {settings['wander_steps']}")
        except UnavailableError as error:
            text.report_absent(("suite",), str(error))
        except ValueError as error:
            text.report(("env_config",), str(error))
        for key, least in (("num_demos", 1), ("action_noise", 0), ("wander_steps", 0), ("image_size", 16)):
            if settings[key] < least:
                text.report((key,), f"must be at least {least}, got {settings[key]}")
        return settings

    def prepare(self, run: StageRun) -> list[str]:
        settings = run.settings
        # Files appear complete or not at all: tasks that are there were recorded before an interruption.
        left = [task for task in settings["tasks"] if not (run.folder / f"{task}{FILE_SUFFIX}").is_file()]
        command = [sys.executable, "-m", "envs.demonstrations", "--suite", settings["suite"]]
        command += ["--out", str(run.folder), "--tasks", *(left or settings["tasks"][:1])]
        for key in ("num_demos", "action_noise", "wander_steps", "image_size", "seed"):
            command += ["--" + key.replace("_", "-"), str(settings[key])]
        if settings.get("env_config"):
            command += ["--config", json.dumps(settings["env_config"])]
        return command

    def missing_output(self, folder: Path) -> str | None:
        return None if list(folder.glob(f"*{FILE_SUFFIX}")) else f"{folder} holds no demonstrations"
