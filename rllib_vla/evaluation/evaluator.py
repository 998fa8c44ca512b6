"""Success rate of a policy on fixed scenes: parallel, resumable, the same for the same checkpoint and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs import frame_rate, get_suite, list_tasks, supports_snapshots
from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.env_runners.rollout import play
from rllib_vla.env_runners.simulator import MAX_SLOTS_WITHOUT_SNAPSHOTS
from rllib_vla.env_runners.simulator_pool import ActorSimulatorPool, InProcessSimulatorPool
from rllib_vla.evaluation.batched_policy import BatchedPolicy
from rllib_vla.evaluation.episode_log import EpisodeLog
from rllib_vla.evaluation.in_training import VIDEO_FPS
from rllib_vla.evaluation.protocol import EvaluationProtocol
from rllib_vla.evaluation.report import GREEDY, EpisodeResult, EvaluationReport
from rllib_vla.evaluation.trajectory import EvaluationTrajectory
from rllib_vla.evaluation.videos import Videos, check_scenes_are_played, episode_name, write_filmstrip, write_video


class EvaluationError(RuntimeError):
    """No episode could be played; the message has the simulator's error."""


def evaluate_policy(
    policy: OpenVLAOFTPolicy,
    protocol: EvaluationProtocol,
    *,
    env_config: dict[str, Any] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    num_simulators: int = 0,
    slots_per_simulator: int = 16,
    policy_name: str = "policy",
    log: EpisodeLog | None = None,
    object_motion: bool = False,
    video_dir: str | Path | None = None,
    videos: Videos = 1,
    on_episode: Callable[[int, int, EpisodeResult], None] | None = None,
) -> EvaluationReport:
    """Plays every episode of a protocol and reports the success rates.

    Args:
        policy: The policy; its model is used as it is (device, dtype) and left in evaluation mode.
        protocol: Which scenes, how often.
        env_config: Keyword arguments of the environment.
        temperature: Softmax temperature of sampled actions; None decodes greedily, as benchmarks do.
        seed: Seed of sampled actions.
        num_simulators: Simulator actors (one CPU each, needs Ray); 0 simulates in this process.
        slots_per_simulator: Episodes that one simulator plays in turn: how many wait for one forward pass.
        policy_name: What the report calls the policy.
        log: Gets every finished episode at once; those it holds already are not played again.
        object_motion: Record how the task's object moves; needs a suite that tells.
        video_dir: Folder for videos and filmstrips; None records nothing.
        videos: Which episodes are recorded. They are played again after the count, one action at a time where the suite
            allows it, so that the video has every control step; videos that are there already are kept.
        on_episode: Called after each episode with the number done, the number of all, and its result.

    Raises:
        ValueError: The protocol, `env_config` or `videos` names something that does not exist.
        EvaluationError: Every episode was lost to a failing simulator.
    """
    suite = get_suite(protocol.suite)
    episodes = protocol.episodes(env_config)
    check_scenes_are_played(videos, (scene.index for scene, _ in episodes))
    known = {(r.task, r.scene_index, r.repeat): r for r in (log.results if log is not None else [])}
    trajectories = [
        EvaluationTrajectory(scene, repeat, i, motion=object_motion, divisible_chunks=suite.divisible_chunks)
        for i, (scene, repeat) in enumerate(episodes)
        if (scene.task, scene.index, repeat) not in known
    ]
    policy.model.eval()
    tasks = {scene.task for scene, _ in episodes}
    infos = [info for info in list_tasks(protocol.suite, env_config) if info.name in tasks]
    act = BatchedPolicy(
        policy,
        instructions=[text for info in infos for text in info.all_instructions],
        prompt_length=suite.prompt_length,
        gripper_convention=suite.gripper_convention,
        temperature=temperature,
        seed=seed,
    )
    slots = min(slots_per_simulator, len(episodes))
    if not supports_snapshots(protocol.suite):
        slots = min(slots, MAX_SLOTS_WITHOUT_SNAPSHOTS)
    with simulator_pool(protocol.suite, env_config or {}, num_simulators, slots) as pool:
        played = play(pool, trajectories, act, object_states=object_motion) if trajectories else ()
        for done, trajectory in enumerate(played, start=len(known) + 1):
            if trajectory.error is None:
                result = trajectory.result
                known[result.task, result.scene_index, result.repeat] = result
                if log is not None:
                    log.add(result)
                if on_episode is not None:
                    on_episode(done, len(episodes), result)
        if not known:
            raise EvaluationError(f"all episodes were lost: {trajectories[0].error}") from trajectories[0].error
        results = [known.get((scene.task, scene.index, repeat)) for scene, repeat in episodes]
        report = EvaluationReport(
            suite=protocol.suite,
            split=protocol.split,
            decoding=GREEDY if temperature is None else f"sampled at T={temperature:g}",
            seed=seed,
            policy=policy_name,
            episodes=[result for result in results if result is not None],
            num_simulator_failures=sum(result is None for result in results),
        )
        if video_dir is not None:
            finished = [
                (EvaluationTrajectory(scene, repeat, i, frames=True, divisible_chunks=suite.divisible_chunks), result)
                for i, ((scene, repeat), result) in enumerate(zip(episodes, results, strict=True))
                if result is not None
            ]
            folder = Path(video_dir)
            chosen = [t for t, r in _choose(finished, videos) if not _video_path(folder, t, r.success).is_file()]
            for trajectory in play(pool, chosen, act, record_frames=True) if chosen else ():
                if trajectory.error is None:
                    _write_recording(folder, trajectory)
    return report


@contextmanager
def simulator_pool(
    suite: str, env_config: dict[str, Any], num_simulators: int, slots_per_simulator: int
) -> Iterator[InProcessSimulatorPool | ActorSimulatorPool]:
    """A pool of simulators that is closed at the end: in this process (0 simulators), or Ray actors."""
    pool: InProcessSimulatorPool | ActorSimulatorPool
    if num_simulators == 0:
        pool = InProcessSimulatorPool(suite, env_config, slots_per_simulator=slots_per_simulator)
    else:
        pool = ActorSimulatorPool(
            suite, env_config, num_simulators=num_simulators, slots_per_simulator=slots_per_simulator
        )
    try:
        yield pool
    finally:
        pool.close()


def _choose(
    finished: list[tuple[EvaluationTrajectory, EpisodeResult]], videos: Videos
) -> list[tuple[EvaluationTrajectory, EpisodeResult]]:
    """The episodes to film; of a number per task failed ones first, then in the order of the protocol."""
    if videos == "all":
        return finished
    if isinstance(videos, tuple):
        return [(t, result) for t, result in finished if t.scene.index in videos]
    if videos == "failed":
        return [(t, result) for t, result in finished if not result.success]
    chosen: dict[str, list[tuple[EvaluationTrajectory, EpisodeResult]]] = {}
    for t, result in sorted(finished, key=lambda pair: (pair[1].success, pair[0].position)):
        of_task = chosen.setdefault(t.scene.task, [])
        if len(of_task) < videos:
            of_task.append((t, result))
    return [pair for of_task in chosen.values() for pair in of_task]


def _video_path(folder: Path, trajectory: EvaluationTrajectory, success: bool) -> Path:
    scene, outcome = trajectory.scene, "success" if success else "failure"
    return folder / f"{episode_name(scene.task, scene.split, scene.index, trajectory.repeat)}_{outcome}.mp4"


def _write_recording(folder: Path, trajectory: EvaluationTrajectory) -> None:
    """Writes the video and the filmstrip of a recorded episode; the video last, it stands for both."""
    path = _video_path(folder, trajectory, trajectory.success)
    frames = trajectory.frames or ()
    write_filmstrip(path.with_suffix(".png"), frames)
    fps = frame_rate(trajectory.scene.suite) if trajectory.divisible_chunks else VIDEO_FPS
    write_video(path, frames, fps=fps)
