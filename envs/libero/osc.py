"""Operational space control torques as one compiled function.

Same control law as robosuite's OSC_POSE (Khatib 1987, "A unified approach for motion and force control of
robot manipulators"), without explicit inverses: with the null-space matrix N = I - Jbar J and Jbar = M^-1
J^T Lambda, N^T M a equals M a - J^T Lambda J a, so one Cholesky factorisation of the mass matrix and one
each of the three operational-space inertias are enough.
"""

import math

import numba
import numpy as np

# Smallest pivot of a factorisation relative to the largest diagonal element: keeps torques finite where the
# arm is singular, and is never reached elsewhere.
_SMALLEST_PIVOT = 1e-9


@numba.njit(cache=True)
def _factorise(matrix, n):
    """Overwrites the lower triangle of `matrix` [n, n] with its Cholesky factor."""
    largest = 0.0
    for i in range(n):
        largest = max(largest, matrix[i, i])
    floor = largest * _SMALLEST_PIVOT
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                matrix[i, i] = math.sqrt(max(total, floor))
            else:
                matrix[i, j] = total / matrix[j, j]


@numba.njit(cache=True)
def _solve(factor, n, x):
    """Solves (L L^T) y = x in place of `x` [n]."""
    for i in range(n):
        total = x[i]
        for k in range(i):
            total -= factor[i, k] * x[k]
        x[i] = total / factor[i, i]
    for i in range(n - 1, -1, -1):
        total = x[i]
        for k in range(i + 1, n):
            total -= factor[k, i] * x[k]
        x[i] = total / factor[i, i]


@numba.njit(cache=True)
def osc_torques(
    goal_pos, goal_mat, site_pos, site_mat, jac_pos, jac_rot, mass, qpos, qvel, qpos_ids, dof_ids, rest_qpos,
    kp, kd, bias, low, high, torques,
):  # fmt: skip
    """Writes clipped joint torques into `torques` [7].

    Args:
        goal_pos, goal_mat: Desired position [3] in metres and orientation [3, 3] of the grip site.
        site_pos, site_mat: Current ones, [3] and [9] (row-major).
        jac_pos, jac_rot: Jacobians of the grip site, [3, nv].
        mass: Joint-space inertia matrix, [nv, nv].
        qpos, qvel: State of the whole model, [nq] and [nv].
        qpos_ids, dof_ids: Indices of the arm's joints in them, int64 [7].
        rest_qpos: Posture that the null space is pulled to, [7] in radians.
        kp, kd: Stiffness [6] in 1/s^2 and damping [6] in 1/s, position first.
        bias: Gravity and Coriolis torques of the whole model, [nv].
        low, high: Torque limits, [7] in Nm.
    """
    n = dof_ids.shape[0]
    # Jacobian of the arm and operational-space velocity.
    jac = np.empty((6, n))
    for j in range(n):
        for i in range(3):
            jac[i, j] = jac_pos[i, dof_ids[j]]
            jac[i + 3, j] = jac_rot[i, dof_ids[j]]
    velocity = np.zeros(6)
    for i in range(3):
        for j in range(qvel.shape[0]):
            velocity[i] += jac_pos[i, j] * qvel[j]
            velocity[i + 3] += jac_rot[i, j] * qvel[j]

    # Half the sum of the cross products of the axes is the axis-angle error for small angles.
    wrench = np.zeros(6)
    for axis in range(3):
        c0, c1, c2 = site_mat[axis], site_mat[3 + axis], site_mat[6 + axis]
        g0, g1, g2 = goal_mat[0, axis], goal_mat[1, axis], goal_mat[2, axis]
        wrench[3] += 0.5 * (c1 * g2 - c2 * g1)
        wrench[4] += 0.5 * (c2 * g0 - c0 * g2)
        wrench[5] += 0.5 * (c0 * g1 - c1 * g0)
    for i in range(3):
        wrench[i] = goal_pos[i] - site_pos[i]
    for i in range(6):
        wrench[i] = kp[i] * wrench[i] - kd[i] * velocity[i]

    # A = M^-1 J^T, inverse inertia J A.
    arm_mass = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            arm_mass[i, j] = mass[dof_ids[i], dof_ids[j]]
    factor = arm_mass.copy()
    _factorise(factor, n)
    columns = np.empty((6, n))
    for i in range(6):
        for j in range(n):
            columns[i, j] = jac[i, j]
        _solve(factor, n, columns[i])
    inverse = np.zeros((6, 6))
    for i in range(6):
        for j in range(6):
            for k in range(n):
                inverse[i, j] += jac[i, k] * columns[j, k]
    inverse_pos = inverse[:3, :3].copy()
    inverse_rot = inverse[3:, 3:].copy()
    _factorise(inverse_pos, 3)
    _factorise(inverse_rot, 3)
    _factorise(inverse, 6)

    # Position and orientation are decoupled (robosuite's uncouple_pos_ori).
    _solve(inverse_pos, 3, wrench[:3])
    _solve(inverse_rot, 3, wrench[3:])

    # Null-space posture: acceleration a, torque M a - J^T Lambda J a.
    posture_kp = 10.0
    posture_kv = 2.0 * math.sqrt(posture_kp)
    acceleration = np.empty(n)
    for j in range(n):
        acceleration[j] = posture_kp * (rest_qpos[j] - qpos[qpos_ids[j]]) - posture_kv * qvel[dof_ids[j]]
    task_acceleration = np.zeros(6)
    for i in range(6):
        for j in range(n):
            task_acceleration[i] += jac[i, j] * acceleration[j]
    _solve(inverse, 6, task_acceleration)
    for j in range(n):
        torque = bias[dof_ids[j]]
        for i in range(6):
            torque += jac[i, j] * (wrench[i] - task_acceleration[i])
        for k in range(n):
            torque += arm_mass[j, k] * acceleration[k]
        torques[j] = min(max(torque, low[j]), high[j])
