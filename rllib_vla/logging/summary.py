"""What a run reached, where its files are, and what to do next."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from rllib_vla.checkpoints import CheckpointError
from rllib_vla.cli.checkpoints import checkpoints_newest_first, find_trials, newest_valid_checkpoint
from rllib_vla.cli.problems import readable_path
from rllib_vla.logging.result_view import (
    evaluation_score,
    flatten,
    format_duration,
    number,
    read_results,
    training_score,
)
