"""Finds seeds that RoboTwin's scripted expert solves: the verified seeds of a task."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from typing import Any

from envs.base import UnavailableError
from envs.robotwin.real.checkout import MAIN, STABLE, Checkout
from envs.robotwin.real.environment import RoboTwinEnv


class ExpertUnavailableError(UnavailableError):
    """RoboTwin's expert cannot run with this interpreter."""


def check_expert(checkout: Checkout, report: dict[str, Any], python: str | None) -> None:
    """Checks that the expert's planner is the real one.

    Args:
        checkout: The checkout.
        report: What the simulator process said of itself.
        python: The interpreter of `robotwin_python`, None if none was named.

    Raises:
        ExpertUnavailableError: A package it needs is a stand-in; says what to do.
    """
    # Upstream's expert plans with cuRobo; SimpleVLA-RL's and RLinf's copies, and RoboTwin 1.0, with mplib.
    needed = ["mplib", "curobo"] if checkout.flavour in (MAIN, STABLE) else ["mplib"]
    lacking = [package for package in needed if package in report["standins"]]
    if lacking:
        versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        raise ExpertUnavailableError(
            f"making seed lists needs RoboTwin's scripted expert, which plans with {' and '.join(needed)}; there is "
            f"no usable {' and no '.join(lacking)} in {python or 'this interpreter'} ({versions}). Name the "
            "interpreter of an environment that RoboTwin's own installation script made with 'robotwin_python' "
            "(mplib 0.2.1 needs numpy below 2, cuRobo needs CUDA; docs/robotwin.md)"
        )


def try_seeds(
    env: RoboTwinEnv, task: str, first: int, num_solved: int, max_tried: int, skip: Collection[int] = ()
) -> Iterator[tuple[int, str, str]]:
    """Tries one seed after the other until enough were solved.

    Args:
        env: The environment.
        task: Name of the task.
        first: The first seed.
        num_solved: Ends after so many solved seeds.
        max_tried: Ends after so many seeds.
        skip: Seeds that are not tried and do not count.

    Yields:
        Seed, outcome (one of `robotwin_child.main.OUTCOMES`) and detail.
    """
    solved = 0
    for seed in itertools.islice((seed for seed in itertools.count(first) if seed not in skip), max_tried):
        if solved >= num_solved:
            return
        outcome, detail = env.try_expert(task, seed)
        solved += outcome == "success"
        yield seed, outcome, detail
