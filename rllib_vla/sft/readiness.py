"""What a run needs and whether it is there, found out without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import envs
from policies.openvla_oft import OpenVLAOFTConfig
from rllib_vla.model_path import resolve_model_path
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.evaluation import evaluation_protocol
from rllib_vla.sft.main import refuse_unfinished_run
from rllib_vla.sft.training_data import read_training_data
from rllib_vla.sft.training_state import STATE_FILE, load_training_state


def check_readiness(config: SFTConfig, *, resume: bool = False) -> tuple[list[str], list[str]]:
    """Looks for demonstrations, the initial checkpoint, the simulator and, to `resume`, the training state.

    Every demonstration that the run would read is read, except for its frames.

    Returns:
        Facts about what is there, and what is missing or wrong, with the remedy.
    """
    facts: list[str] = []
    missing: list[str] = []
    last = _check_state if resume else _check_output
    for check in (_check_demonstrations, _check_model, _check_evaluation, last):
        missing += _attempt(check, config, facts)
    return facts, missing


def _attempt(check: Callable[[SFTConfig, list[str]], None], config: SFTConfig, facts: list[str]) -> list[str]:
    # A simulator's or a data format's package that is not there raises ImportError or RuntimeError.
    try:
        check(config, facts)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return [str(error)]
    return []


def _check_demonstrations(config: SFTConfig, facts: list[str]) -> None:
    if not Path(config.demos_dir).expanduser().is_dir():
        wanted = config.tasks or ([info.name for info in envs.list_tasks(config.suite)] if config.suite else [])
        of_tasks = (
            f" of {len(wanted)} tasks ({', '.join(wanted[:3])}{', …' if len(wanted) > 3 else ''})" if wanted else ""
        )
        raise FileNotFoundError(
            f"demonstrations{of_tasks}: there is no folder {config.demos_dir}; docs/sft.md says where they come from"
        )
    data = read_training_data(config)
    steps = sum(map(len, data.demonstrations))
    facts.append(
        f"demonstrations: {len(data.selection)} of {len(data.tasks)} tasks, {steps} control steps "
        f"({type(data.reader).__name__})"
    )


def _check_model(config: SFTConfig, facts: list[str]) -> None:
    if config.model_path is None:
        OpenVLAOFTConfig.preset(config.preset, **config.policy)
        facts.append(f"initial policy: random weights of preset {config.preset!r}")
        return
    path = resolve_model_path(config.model_path)
    where = "" if Path(path).is_dir() else " (fetched from the Hugging Face hub unless it is in its cache)"
    facts.append(f"initial policy: {path}{where}")


def _check_evaluation(config: SFTConfig, facts: list[str]) -> None:
    settings = config.evaluation
    if settings is None:
        return
    protocol = evaluation_protocol(config)
    num_episodes = len(protocol.episodes(settings.env_config))
    facts.append(f"evaluation: {num_episodes} episodes of {protocol.suite} every {settings.every_steps} steps")


def _check_output(config: SFTConfig, facts: list[str]) -> None:
    refuse_unfinished_run(config)


def _check_state(config: SFTConfig, facts: list[str]) -> None:
    state = load_training_state(Path(config.output_dir).expanduser() / STATE_FILE, config, mmap=True)
    facts.append(f"training state: step {state['step']} of {config.num_steps}")
