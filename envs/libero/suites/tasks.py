"""Task tables of LIBERO's five suites, read from the installed `hf-libero`. No simulator is imported here.

Names and order of the tasks are the benchmark's (task order 0), and so are the instructions, which LIBERO takes from
the names.
"""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from envs.base import TaskInfo, unknown_name
from envs.libero.engine import INSTALL_HINT, EngineError

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")

NUM_STORED_STATES = 50
NUM_GENERATED_STATES = 500
# "train": generated; "eval": LIBERO's stored initial states. "reference": the stored ones again, for training on the
# states that are evaluated, as the reference implementation does.
NUM_SCENES = {"train": NUM_GENERATED_STATES, "eval": NUM_STORED_STATES, "reference": NUM_STORED_STATES}

# Control steps. "simplevla": SimpleVLA-RL, training and evaluation; "openvla": OpenVLA-OFT's evaluation.
STEP_LIMITS = {
    "simplevla": dict.fromkeys(SUITES, 512),
    "openvla": {
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    },
}

_SCENE_PREFIX = re.compile(r"^[A-Z_]+_SCENE\d+_")  # of the tasks of libero_10 and libero_90
# What decides a simulator model: the class of the scene, its fixtures and objects, and the sites of its regions.
_MODEL_SECTIONS = re.compile(r"\(\s*(?:define\s*\(problem|:regions|:fixtures|:objects)\b", re.IGNORECASE)


def package_path() -> Path:
    """Returns the folder of `hf-libero` with task files and initial states. EngineError if it is not installed."""
    spec = importlib.util.find_spec("libero")
    if spec is None or spec.origin is None:
        raise EngineError(f"hf-libero is not installed. Run: {INSTALL_HINT}")
    return Path(spec.origin).parent / "libero"


def bddl_file(suite: str, task: str) -> Path:
    """Returns the path of the BDDL problem of a task."""
    return package_path() / "bddl_files" / suite / f"{task}.bddl"


def initial_states_file(suite: str, task: str) -> Path:
    """Returns the path of the stored initial states of a task."""
    return package_path() / "init_files" / suite / f"{task}.pruned_init"


def __getattr__(name: str) -> Any:
    """`LIBERO_SPATIAL` and so on: the tasks of a suite, read when they are first asked for.

    `libero_spatial_tasks` and so on: a function that returns them for the settings of the environment.
    """
    if name.isupper() and name.lower() in SUITES:
        return load_tasks(name.lower())
    suite, _, what = name.rpartition("_")
    if suite in SUITES and what == "tasks":
        return functools.partial(list_tasks, suite)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def list_tasks(suite: str, env_config: Mapping[str, Any]) -> list[TaskInfo]:
    """Returns the tasks of a suite with the step limits that the environment's `step_limits` chooses.

    Raises:
        EngineError: When hf-libero is not installed.
        ValueError: For an unknown kind of `step_limits`.
    """
    limit = step_limit(suite, env_config.get("step_limits", "simplevla"))
    return [dataclasses.replace(info, max_control_steps=limit) for info in load_tasks(suite)]


def step_limit(suite: str, kind: str) -> int:
    """Returns the step limit of a suite's tasks, in control steps; ValueError for an unknown kind."""
    if kind not in STEP_LIMITS:
        raise unknown_name("value of step_limits", kind, STEP_LIMITS)
    return STEP_LIMITS[kind][suite]


@functools.cache
def load_tasks(suite: str) -> tuple[TaskInfo, ...]:
    """Returns the tasks of a suite in the order of their ids.

    Raises:
        EngineError: When hf-libero is not installed.
    """
    workspaces: dict[tuple[str, ...], str] = {}
    tasks = []
    for task_id, name in enumerate(_load_task_map().libero_task_map[suite]):
        model = _model_text(bddl_file(suite, name))
        workspace = workspaces.setdefault(model, f"{suite}/{len(workspaces)}")
        instruction = _SCENE_PREFIX.sub("", name).replace("_", " ")
        tasks.append(TaskInfo(name, task_id, instruction, step_limit(suite, "simplevla"), NUM_SCENES, workspace))
    return tuple(tasks)


@functools.cache
def _load_task_map() -> ModuleType:
    # Loaded by its path: importing it by name would import all of LIBERO and torch.
    path = package_path() / "benchmark" / "libero_suite_task_map.py"
    spec = importlib.util.spec_from_file_location("libero_suite_task_map", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _model_text(path: Path) -> tuple[str, ...]:
    """Returns the sections of a BDDL file that decide its simulator model, with single spaces."""
    text = path.read_text()
    return tuple(" ".join(_section(text, match.end()).split()) for match in _MODEL_SECTIONS.finditer(text))


def _section(text: str, start: int) -> str:
    """Returns `text` from `start` up to the parenthesis that closes the section."""
    depth = 1
    for end in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]
