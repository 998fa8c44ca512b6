"""Evaluates a vision-language-action policy on the scenes of a suite and prints the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from envs.base import UnavailableError
from rllib_vla.algorithms.grpo import GRPOConfig
from rllib_vla.checkpoints import fingerprint
from rllib_vla.cli.evaluation_target import EvaluationTarget
from rllib_vla.cli.problems import InputError, readable_path
from rllib_vla.env_runners.simulator_pool import AllSimulatorsFailedError
from rllib_vla.evaluation.episode_log import EpisodeLog
from rllib_vla.evaluation.evaluator import EvaluationError, evaluate_policy
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.evaluation.videos import Videos
from rllib_vla.policy_fit import policy_misfit


def evaluate_target(
    target: EvaluationTarget,
    console: Console,
    *,
    suite: str | None,
    tasks: tuple[str, ...] | None,
    split: str,
    num_scenes: int | None,
    repeats: int,
    temperature: float | None,
    seed: int,
    num_simulators: int,
    device: str | None,
    dtype: str | None,
    unnorm_key: str | None,
    out: Path | None,
    videos: Videos,
    object_motion: bool,
    env_config: dict[str, Any],
) -> None:
    """Plays the scenes and prints success rates; with `out`, writes report and videos there.

    Suite, tasks and simulator settings that are not given are those the policy was trained with.

    Raises:
        InputError: Something names what does not exist, or the policy does not fit the suite.
        typer.Exit: The simulators do nothing but fail; the cause is on standard error, what was played stays in `out`.
    """
    trained_with = None if target.algo_class is None else target.load_config()
    if suite is None:
        if trained_with is None:
            raise InputError("an exported policy does not say what it was trained on: add --suite")
        suite = trained_with.env
    if trained_with is not None and suite == trained_with.env:
        tasks = tasks or _as_tuple(trained_with.env_config.get("tasks"))
        env_config = {**trained_with.get_simulator_config(), **env_config}
    console.print(f"Evaluating {readable_path(target.path)} on {suite} ({split})", highlight=False)
    try:
        protocol = EvaluationProtocol(suite, split, tasks, num_scenes, repeats)
        num_episodes = len(protocol.episodes(env_config))
        log = None
        if out is not None:
            identity = {
                "policy": fingerprint(target.path if target.algo_class is None else target.module_path),
                "suite": suite,
                "split": split,
                "tasks": None if tasks is None else list(tasks),
                "num_scenes": num_scenes,
                "repeats": repeats,
                "temperature": temperature,
                "seed": seed,
                "object_motion": object_motion,
                "env_config": env_config,
                "dtype": dtype,
            } | ({} if unnorm_key is None else {"unnorm_key": unnorm_key})
            log = EpisodeLog(out, identity)
            if log.results:
                console.print(f"{len(log.results)} of {num_episodes} episodes were played before", highlight=False)
        policy = target.load_policy(
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            dtype=None if dtype is None else getattr(torch, dtype),
            unnorm_key=unnorm_key,
        )
        if message := policy_misfit(policy.config, GRPOConfig().environment(suite, env_config=env_config)):
            raise InputError(message)
        with console.status(f"0/{num_episodes} episodes") as status:
            successes = sum(result.success for result in log.results) if log is not None else 0

            def show(done: int, total: int, episode: Any) -> None:
                nonlocal successes
                successes += episode.success
                status.update(f"{done}/{total} episodes, success so far {successes / done:.2f}")

            report = evaluate_policy(
                policy,
                protocol,
                env_config=env_config,
                temperature=temperature,
                seed=seed,
                num_simulators=num_simulators,
                policy_name=readable_path(target.path),
                log=log,
                object_motion=object_motion,
                video_dir=None if out is None or not videos else out / "videos",
                videos=videos,
                on_episode=show,
            )
    except (ValueError, FileNotFoundError, NotImplementedError, UnavailableError) as error:
        raise InputError(str(error)) from error
    except (EvaluationError, AllSimulatorsFailedError) as error:
        Console(stderr=True).print(f"Error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(report.to_markdown(), highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        console.print(f"Report: {readable_path(report.save(out))}", highlight=False)


def _as_tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
