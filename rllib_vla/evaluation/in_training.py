"""Greedy evaluation between training iterations, on the training runners and their simulators."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rllib_vla import metrics as names
from rllib_vla.env_runners.group import GroupRequest
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.evaluation.videos import write_filmstrip, write_video
from rllib_vla.scene_keys import TASKS, UNSEEN_TASKS

logger = logging.getLogger("ray.rllib")

# Videos are made of one frame per action chunk; slow enough to see what happens.
VIDEO_FPS = 5


@dataclass
class PlayedEpisode:
    """Outcome of one evaluation episode, as it returns from an environment runner."""

    request: GroupRequest
    success: bool
    num_control_steps: int
    frames: list[np.ndarray] | None


def _play(
    env_runner, requests_of: dict[int, list[GroupRequest]], filmed: set[int], weights_seq_no: int
) -> list[PlayedEpisode]:
    """Runs on the environment runner; episodes that are lost to a simulator failure are left out."""
    if env_runner.weights_seq_no != weights_seq_no:  # restarted a moment ago: it holds the initial weights
        return []
    requests = requests_of.get(env_runner.worker_index, [])
    played = []
    for record in (False, True):
        chosen = [request for request in requests if (request.group_id in filmed) == record]
        played += [
            PlayedEpisode(member.request, member.success, member.num_control_steps, member.frames)
            for member in env_runner.evaluate_scenes(chosen, record_frames=record)
            if member.error is None
        ]
    return played


def evaluate_on_env_runners(algorithm) -> dict[str, Any]:
    """Plays `evaluation_num_scenes_per_task` scenes of every task greedily.

    Args:
        algorithm: A `GRPO` instance.

    Returns:
        Success rate overall (mean over tasks) and per task, mean trajectory length, number of trajectories, seconds;
        with `unseen_tasks` in `env_config`, also the success rates of those and of the other tasks. Episodes whose
        simulator or runner failed, or was too slow for `evaluation_sample_timeout_s`, do not count.
    """
    start = time.perf_counter()
    cfg, group = algorithm.config, algorithm.env_runner_group
    tasks = cfg.env_config.get(TASKS)
    protocol = EvaluationProtocol(
        suite=cfg.env,
        split=cfg.evaluation_split,
        tasks=None if tasks is None else tuple(tasks),
        num_scenes_per_task=cfg.evaluation_num_scenes_per_task,
    )
    requests = [
        GroupRequest(group_id=i, scene=scene, size=1, seed=cfg.seed or 0)
        for i, (scene, _) in enumerate(protocol.episodes(cfg.get_simulator_config()))
    ]
    algorithm.ensure_current_weights()
    is_local = group.num_remote_env_runners() == 0
    workers = [0] if is_local else group.healthy_env_runner_ids()
    requests_of = {worker: requests[i :: len(workers)] for i, worker in enumerate(workers)}
    # Spread over the episodes, so that every task is seen.
    filmed = set(np.linspace(0, len(requests) - 1, cfg.evaluation_num_videos).astype(int).tolist())
    seq_no = algorithm.num_updates  # the function must not drag the algorithm along to a remote runner
    results = group.foreach_env_runner(
        lambda env_runner: _play(env_runner, requests_of, filmed, seq_no),
        local_env_runner=is_local,
        timeout_seconds=cfg.evaluation_sample_timeout_s,
    )
    played = [episode for result in results for episode in result]
    if len(played) < len(requests):
        logger.warning(
            f"Evaluation: {len(requests) - len(played)} of {len(requests)} episodes are missing: their simulator or "
            "environment runner failed or did not answer within `evaluation_sample_timeout_s`."
        )
    if algorithm.logdir is not None:
        _write_videos(played, Path(algorithm.logdir) / "videos" / f"iteration_{algorithm.evaluated_iteration:05d}")
    return _summarize(played, cfg.env_config.get(UNSEEN_TASKS) or []) | {
        names.TIME_EVALUATE: time.perf_counter() - start
    }


def _summarize(played: list[PlayedEpisode], unseen_tasks: Sequence[str] = ()) -> dict[str, Any]:
    outcomes: dict[str, list[bool]] = {}
    for episode in played:
        outcomes.setdefault(episode.request.scene.task, []).append(episode.success)
    per_task = {task: float(np.mean(successes)) for task, successes in sorted(outcomes.items())}
    generalisation = {}
    if unseen_tasks:
        generalisation = {
            names.SEEN_SUCCESS_RATE: _mean([rate for task, rate in per_task.items() if task not in unseen_tasks]),
            names.UNSEEN_SUCCESS_RATE: _mean([rate for task, rate in per_task.items() if task in unseen_tasks]),
        }
    return generalisation | {
        names.SUCCESS_RATE: _mean(list(per_task.values())),
        names.TASK_SUCCESS_RATE: per_task,
        names.TRAJECTORY_LENGTH: _mean([episode.num_control_steps for episode in played]),
        names.NUM_TRAJECTORIES: len(played),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _write_videos(played: list[PlayedEpisode], folder: Path) -> None:
    for episode in played:
        if episode.frames is not None:
            scene = episode.request.scene
            outcome = "success" if episode.success else "failure"
            path = folder / f"{scene.task}_{scene.split}{scene.index:02d}_{outcome}.mp4"
            write_video(path, episode.frames, fps=VIDEO_FPS)
            write_filmstrip(path.with_suffix(".png"), episode.frames)
