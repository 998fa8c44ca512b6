"""Stage kind `sft`: supervised fine-tuning on demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rllib_vla.cli.documents import load_settings, relative_to
from rllib_vla.cli.problems import InputError
from rllib_vla.cli.search_space import merge
from rllib_vla.experiments.kinds.base import DEMOS, POLICY, RLLIB, StageKind, StageRun, StageText
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.config_values import SFTConfigError
from rllib_vla.sft.main import CHECKPOINT_FOLDER
from rllib_vla.sft.training_data import open_reader, select, task_names
from rllib_vla.sft.training_state import STATE_FILE, read_progress

_OUTPUT, _FILE = "train", "sft.yaml"
# Settings that the stage fills in.
_FILLED = {"demos_dir": "demos", "output_dir": None, "model_path": "policy", "seed": None}


class SFTKind(StageKind):
    """Trains a policy; `policy` is the one to start from (left out: random weights of the preset)."""

    name = "sft"
    keys = {"extends": str, "demos": str, "policy": str, "config": dict | None}
    required = ("demos",)
    inputs = {"demos": (DEMOS,), "policy": (POLICY,)}
    output = POLICY
    uses_seed = True

    def check(self, text: StageText) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        if "extends" in text.values:
            try:
                settings = dict(load_settings(relative_to(text.file, text.values["extends"])).data)
            except InputError as error:
                text.report(("extends",), "; ".join(map(str, error.problems)))
        own = text.values.get("config") or {}
        for key, replacement in _FILLED.items():
            if key in own:
                what = f"write '{replacement}' beside 'kind'" if replacement else "it is filled in"
                text.report(("config", key), f"does not belong here: {what}")
            settings.pop(key, None)
        settings = merge(settings, {key: value for key, value in own.items() if key not in _FILLED})
        if "policy" in text.values and settings.get("preset"):
            del settings["preset"]
            settings.pop("policy", None)  # sizes of the preset; those of the given policy are its own
        filled = {"demos_dir": text.inputs["demos"], "output_dir": "out"}
        if "policy" in text.values:
            filled["model_path"] = text.values["policy"]
        try:
            config = SFTConfig.from_dict(settings | filled)
        except SFTConfigError as error:
            for path, message in error.mistakes:
                text.report(("config", *path), message)
            return settings
        if Path(config.demos_dir).is_absolute():  # a folder, not a stage that is still to make them
            _check_demonstrations(config, text)
        return settings

    def prepare(self, run: StageRun) -> list[str]:
        filled = {
            "demos_dir": run.inputs["demos"],
            "output_dir": str(run.folder / _OUTPUT),
            "model_path": run.inputs.get("policy"),
            "seed": run.seed,
        }
        path = run.folder / _FILE
        path.write_text(yaml.safe_dump(run.settings | filled, sort_keys=False))
        command = [*RLLIB, "sft", str(path)]
        if read_progress(run.folder / _OUTPUT / STATE_FILE) is not None:
            command.append("--resume")
        return command

    def output_path(self, folder: Path) -> Path:
        return folder / _OUTPUT / CHECKPOINT_FOLDER


def _check_demonstrations(config: SFTConfig, text: StageText) -> None:
    """Reports tasks that have no or too few demonstrations; the demonstrations themselves are read by the stage."""
    try:
        reader = open_reader(config)
        select(config, reader, task_names(config, reader))
    except (ValueError, OSError, ImportError) as error:
        text.report_absent(("demos",), str(error))
