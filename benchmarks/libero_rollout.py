"""Control steps on LIBERO's own suites: this project's environments against LIBERO's stock loop.

The baseline is what SimpleVLA-RL runs: `OffScreenRenderEnv` at 256x256 with both cameras, stepped action by action, so
that every control step is rendered twice. The second baseline has the policy camera only. All execute the same actions
from the same stored initial states, alternating; one task of each of three suites.

Below the speeds: the start of an episode against making the environment anew, as the reference does for every
trajectory; memory per trajectory in flight when one process plays a group of eight; and where a chunk's time goes.
"""

import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

import envs
from benchmarks.libero_stock import StockEnv
from benchmarks.measure import Figure, NotAvailableError, Variant, compare, share_of, shares
from benchmarks.stopwatch import Stopwatch
from envs.libero.suites.assets import AssetsError, find_assets

CHUNK_SIZE = 8
GROUP_SIZE = 8
# One model each of the table-top, floor and kitchen scenes.
TASKS = (("libero_spatial", 0), ("libero_object", 0), ("libero_10", 2))
_PHYSICS = ("mj_forward", "mj_forwardSkip", "mj_step2", "mj_jacSite", "mj_fullM")


def run(quick: bool) -> list[Figure]:
    """Returns speeds, episode starts, memory and shares of time.

    Raises:
        NotAvailableError: Without LIBERO's assets.
    """
    try:
        find_assets()
    except AssetsError as error:
        raise NotAvailableError(str(error)) from error
    num_chunks, rounds = (1, 1) if quick else (2, 5)
    figures = []
    for suite, task_id in TASKS[:1] if quick else TASKS:
        figures += _measure_task(suite, task_id, num_chunks, rounds)
    return [*figures, *_measure_memory(*TASKS[0])]


def _measure_task(suite: str, task_id: int, num_chunks: int, rounds: int) -> list[Figure]:
    info = envs.list_tasks(suite)[task_id]
    scenes = envs.list_scenes(suite, "eval", [info.name])
    # An open gripper cannot solve the task by chance, which would cut a chunk short.
    chunks = np.random.default_rng(0).uniform(-0.5, 0.5, (num_chunks, CHUNK_SIZE, 7))
    chunks[..., 6] = -1.0
    stock = {
        "both cameras": StockEnv(suite, info.name),
        "policy camera": StockEnv(suite, info.name, camera_names=["agentview"]),
    }
    starts = tempfile.TemporaryDirectory(prefix="libero_starts_")
    ours = {
        stepping: envs.make_env(suite, stepping=stepping, start_cache=starts.name) for stepping in ("exact", "fast")
    }
    exact = ours["exact"]

    def play_stock(env: StockEnv) -> None:
        for action in chunks.reshape(-1, 7):
            env.step(action)

    def play(env: Any) -> None:
        for chunk in chunks:
            env.step(chunk)

    def own(stepping: str) -> Variant:
        env = ours[stepping]
        return Variant(f"{suite}, {stepping}", lambda: play(env), lambda: env.reset(options={"scene": scenes[0]}))

    baselines = [
        Variant(f"stock loop, {name}", lambda env=env: play_stock(env), lambda env=env: env.reset(0))
        for name, env in stock.items()
    ]
    steps, unit = num_chunks * CHUNK_SIZE, "control steps/s"
    try:
        _check_same_frames(stock["both cameras"], exact, scenes[0], chunks[0])
        figures = compare([*baselines, own("exact"), own("fast")], rounds=rounds, amount=steps, rate_unit=unit)
        figures += compare([baselines[1], own("exact"), own("fast")], rounds=rounds, amount=steps, rate_unit=unit)
        figures += _measure_starts(suite, info.name, exact, scenes, rounds)
        return figures + _measure_shares(suite, lambda: own("exact").prepare(), lambda: play(exact), rounds)
    finally:
        for env in (*stock.values(), *ours.values()):
            env.close()
        starts.cleanup()


def _check_same_frames(stock: StockEnv, env: Any, scene: envs.Scene, chunk: np.ndarray) -> None:
    """RuntimeError unless both show the same after the same actions: they would not do the same work."""
    stock.reset(scene.index)
    for action in chunk:
        frame, _ = stock.step(action)
    env.reset(options={"scene": scene})
    if not np.array_equal(env.step(chunk)[0]["image"], frame):
        raise RuntimeError(f"{scene.task}: the frame differs from that of LIBERO's stock loop")


def _measure_starts(suite: str, task: str, env: Any, scenes: list[envs.Scene], rounds: int) -> list[Figure]:
    """Start of an episode: of a scene that was never played, of one that was, and as a member of a group."""

    def start_anew() -> None:
        stock = StockEnv(suite, task)
        stock.reset(0)
        stock.close()

    def start_group(scene: envs.Scene) -> None:
        """What a simulator actor does for a group: one reset, its snapshot for all members."""
        env.reset(options={"scene": scene})
        snapshot = env.save_state()
        for _ in range(GROUP_SIZE - 1):
            env.load_state(snapshot)

    env.reset(options={"scene": scenes[1]})
    snapshot = env.save_state()
    unplayed, played = iter(scenes[2::2]), iter(scenes[2::2])
    unplayed_by_groups = iter(scenes[3::2])
    variants = [
        Variant("environment made anew", start_anew),
        Variant(f"{suite}, first start of a scene", lambda: env.reset(options={"scene": next(unplayed)})),
        # Settled by the variant before, which might have been another process or an earlier run.
        Variant(f"{suite}, start of a scene", lambda: env.reset(options={"scene": next(played)})),
        Variant(f"{suite}, start of a further member", lambda: env.load_state(snapshot)),
        Variant(
            f"{suite}, start of an episode, group of {GROUP_SIZE} in a scene never played",
            lambda: start_group(next(unplayed_by_groups)),
            pieces=GROUP_SIZE,
        ),
    ]
    return compare(variants, rounds=rounds)


def _measure_shares(suite: str, prepare: Callable, play: Callable, rounds: int) -> list[Figure]:
    """Where the time of exact chunk stepping goes; the rest is Python between the parts."""
    from envs.libero.chunk_stepper import ExactChunkStepper
    from envs.libero.rendering import FrameRenderer

    watch, parts, wholes = Stopwatch(), [], []
    watched = [watch.watch(mujoco, name, f"{suite}, physics") for name in _PHYSICS]
    watched += [
        watch.watch(ExactChunkStepper, name, f"{suite}, controller") for name in ("_torques", "_read_state")
    ] + [watch.watch(FrameRenderer, "render", f"{suite}, rendering")]
    for context in watched:
        context.__enter__()
    try:
        for _ in range(rounds):
            prepare()
            watch.clear()
            with watch.part(f"{suite}, Python"):
                play()
            parts.append(dict(watch.seconds))
            wholes.append(sum(watch.seconds.values()))
    finally:
        for context in reversed(watched):
            context.__exit__(None, None, None)
    return shares(parts, wholes, whole="chunks, exact")


def _measure_memory(suite: str, task_id: int) -> list[Figure]:
    """Resident memory of a process, divided by the trajectories that it plays at the same time."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        stock = pool.apply(_memory_of_stock, (suite, task_id))
    with context.Pool(1, maxtasksperchild=1) as pool:
        group = pool.apply(_memory_of_group, (suite, task_id)) / GROUP_SIZE
    what = f"{suite}, memory per trajectory, {GROUP_SIZE} in a process"
    return [share_of(what, group, "stock, a process per trajectory", stock, "GB")]


def _memory_of_stock(suite: str, task_id: int) -> float:
    env = StockEnv(suite, envs.list_tasks(suite)[task_id].name)
    env.reset(0)
    return _resident_memory()


def _memory_of_group(suite: str, task_id: int) -> float:
    from rllib_vla.env_runners.simulator import Request, Simulator

    simulator = Simulator(suite, {})
    scene = envs.list_scenes(suite, "eval", [envs.list_tasks(suite)[task_id].name])[0]
    idle = np.zeros((CHUNK_SIZE, 7), np.float32)
    simulator.execute([Request(slot, scene=scene) for slot in range(GROUP_SIZE)])
    simulator.execute([Request(slot, chunk=idle) for slot in range(GROUP_SIZE)])
    return _resident_memory()


def _resident_memory() -> float:
    """Returns the resident memory of this process in GB."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return num_pages * resource.getpagesize() / 1e9
