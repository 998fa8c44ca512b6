"""Where the object of a LIBERO task is and what touches it, from MuJoCo's bodies and contacts."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.base import ObjectState

_ROBOT_PREFIXES = ("robot0_", "gripper0_")
_FINGERS = ("left_finger", "right_finger")


def observe_object(robosuite_env: Any) -> ObjectState:
    """Returns the state of the first object of interest of the current BDDL problem.

    Poses and contacts are those that MuJoCo's data hold. LIBERO calls an object grasped when both fingers touch it,
    which also holds for an object that both fingers push from behind; here they have to press from opposite sides too.

    Args:
        robosuite_env: A `BDDLBaseDomain` with one arm.
    """
    sim = robosuite_env.sim
    model, data = sim.model._model, sim.data._data
    body = robosuite_env.obj_body_id[robosuite_env.obj_of_interest[0]]
    sides = robosuite_env.robots[0].gripper.important_geoms
    pushes: dict[str, np.ndarray] = {}  # finger -> sum of the directions in which it presses on the object
    touched = False
    for name, direction in _contacts(model, data, body):
        geom = sim.model.geom_id2name(name) or ""
        touched = touched or geom.startswith(_ROBOT_PREFIXES)
        for finger in _FINGERS:
            if geom in sides[finger]:
                pushes[finger] = pushes.get(finger, 0.0) + direction
    grasped = len(pushes) == len(_FINGERS) and float(np.dot(*pushes.values())) < 0.0
    x, y, z = (float(value) for value in data.xpos[body])
    return ObjectState((x, y, z), grasped, touched)


def _contacts(model: Any, data: Any, body: int) -> list[tuple[int, np.ndarray]]:
    """Returns the other geom of each contact of a body, and the contact's normal [3] towards the body."""
    geoms = data.contact.geom  # int [number of contacts, 2]
    is_object = model.body_rootid[model.geom_bodyid[geoms]] == model.body_rootid[body]
    found = []
    for (first, second), (is_first, is_second), frame in zip(geoms, is_object, data.contact.frame, strict=True):
        if is_first != is_second:  # contacts between the object's own parts do not count
            # MuJoCo's normal points from the first geom to the second.
            found.append((int(second), -frame[:3]) if is_first else (int(first), frame[:3].copy()))
    return found
