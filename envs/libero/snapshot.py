"""Snapshots of a running episode: everything that decides how it continues, as plain picklable arrays."""

import dataclasses
from typing import Any

import mujoco
import numpy as np

from envs.libero.chunk_stepper import ChunkStepper

# Positions, velocities, controls and the solver's warm start: what a bit-identical continuation needs.
_STATE_SPEC = int(mujoco.mjtState.mjSTATE_INTEGRATION)


@dataclasses.dataclass(frozen=True)
class SimulatorSnapshot:
    """State of one LIBERO simulation between two control steps.

    Attributes:
        physics: float64 [n], MuJoCo's integration state.
        body_pos, body_quat: Poses of bodies in their parents; LIBERO moves fixtures by editing them.
        site_rgba: Colours of sites; LIBERO shows switched-on burners by editing them.
        controller: State of the chunk stepper's controller.
        clock: robosuite's step counter and simulated time in seconds.
    """

    physics: np.ndarray
    body_pos: np.ndarray
    body_quat: np.ndarray
    site_rgba: np.ndarray
    controller: dict[str, Any]
    clock: tuple[int, float]


def take_snapshot(stepper: ChunkStepper) -> SimulatorSnapshot:
    """Copies the state out of the simulation that `stepper` drives."""
    model, data, env = stepper.model, stepper.data, stepper.env
    physics = np.empty(mujoco.mj_stateSize(model, _STATE_SPEC))
    mujoco.mj_getState(model, data, physics, _STATE_SPEC)
    return SimulatorSnapshot(
        physics=physics,
        body_pos=model.body_pos.copy(),
        body_quat=model.body_quat.copy(),
        site_rgba=model.site_rgba.copy(),
        controller=stepper.controller_state(),
        clock=(env.timestep, env.cur_time),
    )


def restore_snapshot(stepper: ChunkStepper, snapshot: SimulatorSnapshot) -> None:
    """Puts `snapshot` into the simulation that `stepper` drives; the model must be the same.

    Poses and contacts stay those of the former state until the next step, or until somebody computes them.
    """
    model, data, env = stepper.model, stepper.data, stepper.env
    model.body_pos[:] = snapshot.body_pos
    model.body_quat[:] = snapshot.body_quat
    model.site_rgba[:] = snapshot.site_rgba
    mujoco.mj_setState(model, data, snapshot.physics, _STATE_SPEC)
    stepper.load_controller_state(snapshot.controller)
    env.timestep, env.cur_time = snapshot.clock
    env.done = False
