"""Executes whole action chunks on a LIBERO environment, without robosuite's per-step overhead.

robosuite's `env.step` runs three forward passes per simulation step and evaluates all observables (images
included) at each control step. Both steppers here compute no observable at all; the caller renders one frame
at the end of a chunk.

* `ExactChunkStepper` reproduces the simulator states of `env.step` in a loop bit for bit.
* `FastChunkStepper` runs the same control law with one forward pass per simulation step and compiled torques.
  Its trajectories are just as deterministic, but are not those of the stock loop: the solver starts from
  another warm start and sums are rounded differently, which contacts amplify.

Import this module after `engine.load_engine()`.
"""

import abc
import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

from envs.libero.osc import osc_torques

_STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_VEL)

# Rotation commands below this norm (radians) hold the goal orientation. robosuite holds it only for exact
# zeros, so that a command of 1e-9 (from un-normalising a constant dimension) would let the gripper tilt
# under load.
_ROTATION_DEADBAND = 1e-6

# Everything an OSC controller carries from one simulation step to the next.
_CONTROLLER_FIELDS = (
    "goal_pos", "goal_ori", "new_update", "ee_pos", "ee_ori_mat", "ee_pos_vel", "ee_ori_vel", "joint_pos",
    "joint_vel", "J_pos", "J_ori", "J_full", "mass_matrix", "torques", "initial_joint", "initial_ee_pos",
    "initial_ee_ori_mat", "relative_ori", "ori_ref",
)  # fmt: skip


class ChunkStepper(abc.ABC):
    """Steps one robosuite environment (`BDDLBaseDomain`) with a single Panda arm under OSC_POSE.

    Bind a new stepper after each hard reset: robosuite then replaces its simulator, robot and controller.
    """

    def __init__(self, env: Any):
        self.env = env
        self.robot = env.robots[0]
        self.controller = self.robot.controller
        self.gripper = self.robot.gripper
        self.model = env.sim.model._model
        self.data = env.sim.data._data
        self.num_substeps = int(env.control_timestep / env.model_timestep)
        model = env.sim.model
        self._site = model.site_name2id(self.controller.eef_name)
        self._qpos_ids = np.array(self.controller.qpos_index, dtype=np.int64)
        self._dof_ids = np.array(self.controller.qvel_index, dtype=np.int64)
        self._arm_actuators = np.array(self.robot._ref_joint_actuator_indexes, dtype=np.int64)
        self._torque_low, self._torque_high = (np.array(limit) for limit in self.robot.torque_limits)
        self._finger_actuators = np.array([model.actuator_name2id(name) for name in self.gripper.actuators])
        ctrl_range = model.actuator_ctrlrange[self._finger_actuators]
        self._finger_bias = 0.5 * (ctrl_range[:, 1] + ctrl_range[:, 0])
        self._finger_weight = 0.5 * (ctrl_range[:, 1] - ctrl_range[:, 0])
        self._jac_pos, self._jac_rot = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        self._mass = np.zeros((self.model.nv, self.model.nv))

    def step(self, actions: np.ndarray) -> tuple[int, bool]:
        """Executes `actions` float64 [n, 7] until success or the end of the chunk.

        Success is checked after each control step, by the goal predicates of the BDDL problem.

        Returns:
            The number of control steps that were executed, and whether the goal was reached.
        """
        env = self.env
        num_steps, success = 0, False
        for action in actions:
            self._control_step(action)
            num_steps += 1
            env.timestep += 1
            env.cur_time += env.control_timestep
            success = bool(env._check_success())
            env._post_process()
            if success:
                break
        return num_steps, success

    @contextlib.contextmanager
    def observed_state(self) -> Iterator[None]:
        """Within this context `data` holds what an observation shows, with poses of bodies, sites and lights.

        Here that is the current state: MuJoCo's poses are otherwise those before the last integration, and
        computing them anew makes the observation a function of the state alone. The simulation does not change.
        """
        mujoco.mj_kinematics(self.model, self.data)
        yield

    @abc.abstractmethod
    def reset(self) -> None:
        """Brings the controller to its state after a reset; call it once the simulator state is in place."""

    @abc.abstractmethod
    def controller_state(self) -> dict[str, Any]:
        """Returns a copy of what the controller carries between control steps."""

    @abc.abstractmethod
    def load_controller_state(self, state: dict[str, Any]) -> None:
        """Restores what `controller_state` returned."""

    @abc.abstractmethod
    def _control_step(self, action: np.ndarray) -> None: ...

    def _finger_increment(self, action: np.ndarray) -> np.ndarray:
        return np.array([-1.0, 1.0]) * self.gripper.speed * np.sign(action[self.controller.control_dim :])


class ExactChunkStepper(ChunkStepper):
    """Bit-identical to robosuite's own loop with mujoco 3.3.0.

    robosuite runs `mj_forward`, `mj_forward` again inside the controller, and `mj_step`. In MuJoCo 3.3.0 a
    second forward pass changes the solver's warm start, so its constraint stage is kept; its other stages are
    skipped. The first simulation step after a reset acts on the controller's state at construction, as
    robosuite's does.

    robosuite samples its observations by a clock of their own, which after LIBERO's reset fires one simulation step
    before the end of a control step; the frame then shows the poses before that step's integration, and the sites'
    colours of the control step before. Observations of this stepper are those.
    """

    def __init__(self, env: Any):
        super().__init__(env)
        self._sampling_period = 1.0 / env.control_freq
        self._clock, self._sampled = 0.0, True
        self._observed: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._after_reset = self.controller_state()

    def reset(self) -> None:
        self.load_controller_state(self._after_reset)
        # Both `env.reset` and `set_init_state` force one update of all observations, which moves their clock.
        self._clock, self._sampled = self.env.model_timestep + self.env.model_timestep, True
        self._observe(self.data.qpos.copy())

    @contextlib.contextmanager
    def observed_state(self) -> Iterator[None]:
        qpos, site_rgba = self.data.qpos.copy(), self.model.site_rgba.copy()
        qpos_of_poses, observed_qpos, observed_rgba = self._observed
        self.data.qpos[:] = qpos_of_poses
        mujoco.mj_kinematics(self.model, self.data)
        self.data.qpos[:] = observed_qpos
        self.model.site_rgba[:] = observed_rgba
        try:
            yield
        finally:
            self.data.qpos[:] = qpos
            self.model.site_rgba[:] = site_rgba

    def controller_state(self) -> dict[str, Any]:
        state = {name: copy.copy(getattr(self.controller, name)) for name in _CONTROLLER_FIELDS}
        return state | {
            "current_action": np.array(self.gripper.current_action),
            "clock": (self._clock, self._sampled),
            "observed": self._observed,
        }

    def load_controller_state(self, state: dict[str, Any]) -> None:
        for name in _CONTROLLER_FIELDS:
            setattr(self.controller, name, copy.copy(state[name]))
        self.gripper.current_action = np.array(state["current_action"])
        self._clock, self._sampled = state["clock"]
        self._observed = state["observed"]

    def _observe(self, qpos_of_poses: np.ndarray) -> None:
        self._observed = (qpos_of_poses, self.data.qpos.copy(), self.model.site_rgba.copy())

    def _advance_clock(self, qpos_of_poses: np.ndarray) -> None:
        """What robosuite's `Observable.update` does after each simulation step."""
        self._clock += self.env.model_timestep
        if not self._sampled and self._sampling_period >= self._clock:
            self._sampled = True
            self._observe(qpos_of_poses)
        if self._clock >= self._sampling_period:
            if not self._sampled:
                self._observe(qpos_of_poses)
            self._clock %= self._sampling_period
            self._sampled = False

    def _control_step(self, action: np.ndarray) -> None:
        model, data, controller, gripper = self.model, self.data, self.controller, self.gripper
        increment = self._finger_increment(action)
        for substep in range(self.num_substeps):
            mujoco.mj_forward(model, data)
            if controller.new_update:
                mujoco.mj_forwardSkip(model, data, _STAGE_VEL, 1)
                self._read_state()
            if substep == 0:
                controller.set_goal(action[: controller.control_dim])
            torques = np.clip(self._torques(), self._torque_low, self._torque_high)
            gripper.current_action = np.clip(gripper.current_action + increment, -1.0, 1.0)
            data.ctrl[self._finger_actuators] = self._finger_bias + self._finger_weight * gripper.current_action
            data.ctrl[self._arm_actuators] = torques
            qpos = data.qpos.copy()
            mujoco.mj_step2(model, data)
            self._advance_clock(qpos)

    def _read_state(self) -> None:
        controller, data, dofs = self.controller, self.data, self._dof_ids
        controller.ee_pos = data.site_xpos[self._site].copy()
        controller.ee_ori_mat = data.site_xmat[self._site].reshape(3, 3).copy()
        mujoco.mj_jacSite(self.model, data, self._jac_pos, self._jac_rot, self._site)
        controller.ee_pos_vel = np.dot(self._jac_pos, data.qvel)
        controller.ee_ori_vel = np.dot(self._jac_rot, data.qvel)
        controller.joint_pos = data.qpos[self._qpos_ids]
        controller.joint_vel = data.qvel[dofs]
        controller.J_pos = np.array(self._jac_pos[:, dofs])
        controller.J_ori = np.array(self._jac_rot[:, dofs])
        controller.J_full = np.vstack([controller.J_pos, controller.J_ori])
        mujoco.mj_fullM(self.model, self._mass, data.qM)
        controller.mass_matrix = self._mass[dofs, :][:, dofs]
        controller.new_update = False

    def _torques(self) -> np.ndarray:
        # The order of operations is robosuite's: any other would change the last bits.
        k = self.controller
        force = (k.goal_pos - k.ee_pos) * k.kp[0:3] + (-k.ee_pos_vel) * k.kd[0:3]
        torque = orientation_error(k.goal_ori, k.ee_ori_mat) * k.kp[3:6] + (-k.ee_ori_vel) * k.kd[3:6]
        _, lambda_pos, lambda_ori, nullspace = opspace_matrices(k.mass_matrix, k.J_full, k.J_pos, k.J_ori)
        wrench = np.concatenate([np.dot(lambda_pos, force), np.dot(lambda_ori, torque)])
        torques = np.dot(k.J_full.T, wrench) + self.data.qfrc_bias[self._dof_ids]
        torques += nullspace_torques(k.mass_matrix, nullspace, k.initial_joint, k.joint_pos, k.joint_vel)
        k.torques = torques
        k.new_update = True
        return torques


class FastChunkStepper(ChunkStepper):
    """One forward pass per simulation step and compiled torques; same control law and control rate."""

    def __init__(self, env: Any):
        super().__init__(env)
        data, controller = self.data, self.controller
        # Views into the simulator's memory: attribute access on MjData builds a new array object each time.
        self._qpos, self._qvel, self._bias, self._ctrl, self._qm = (
            data.qpos, data.qvel, data.qfrc_bias, data.ctrl, data.qM,
        )  # fmt: skip
        self._site_pos, self._site_mat = data.site_xpos[self._site], data.site_xmat[self._site]
        self._kp, self._kd = np.array(controller.kp, dtype=float), np.array(controller.kd, dtype=float)
        self._rest_qpos = np.array(controller.initial_joint, dtype=float)
        self._action_after_reset = np.array(self.gripper.current_action, dtype=float)
        self._arm_torques = np.zeros(len(self._dof_ids))
        self._goal_pos, self._goal_mat = np.zeros(3), np.zeros((3, 3))

    def reset(self) -> None:
        mujoco.mj_kinematics(self.model, self.data)
        self._goal_pos[:] = self._site_pos
        self._goal_mat[:] = self._site_mat.reshape(3, 3)
        self.gripper.current_action = self._action_after_reset.copy()

    def controller_state(self) -> dict[str, Any]:
        return {
            "goal_pos": self._goal_pos.copy(),
            "goal_mat": self._goal_mat.copy(),
            "current_action": np.array(self.gripper.current_action),
        }

    def load_controller_state(self, state: dict[str, Any]) -> None:
        self._goal_pos[:] = state["goal_pos"]
        self._goal_mat[:] = state["goal_mat"]
        self.gripper.current_action = np.array(state["current_action"])

    def _control_step(self, action: np.ndarray) -> None:
        model, data = self.model, self.data
        increment = self._finger_increment(action)
        fingers = self.gripper.current_action
        for substep in range(self.num_substeps):
            mujoco.mj_step1(model, data)
            mujoco.mj_jacSite(model, data, self._jac_pos, self._jac_rot, self._site)
            mujoco.mj_fullM(model, self._mass, self._qm)
            if substep == 0:
                self._set_goal(action)
            osc_torques(
                self._goal_pos, self._goal_mat, self._site_pos, self._site_mat, self._jac_pos, self._jac_rot,
                self._mass, self._qpos, self._qvel, self._qpos_ids, self._dof_ids, self._rest_qpos, self._kp,
                self._kd, self._bias, self._torque_low, self._torque_high, self._arm_torques,
            )  # fmt: skip
            fingers = np.minimum(np.maximum(fingers + increment, -1.0), 1.0)
            self._ctrl[self._finger_actuators] = self._finger_bias + self._finger_weight * fingers
            self._ctrl[self._arm_actuators] = self._arm_torques
            mujoco.mj_step2(model, data)
        self.gripper.current_action = fingers

    def _set_goal(self, action: np.ndarray) -> None:
        delta = self.controller.scale_action(action[: self.controller.control_dim])
        self._goal_pos[:] = self._site_pos + delta[:3]
        angle = float(np.linalg.norm(delta[3:]))
        if angle > _ROTATION_DEADBAND:
            rotation = np.empty(9)
            quat = np.empty(4)
            mujoco.mju_axisAngle2Quat(quat, delta[3:] / angle, angle)
            mujoco.mju_quat2Mat(rotation, quat)
            np.matmul(rotation.reshape(3, 3), self._site_mat.reshape(3, 3), out=self._goal_mat)
