import numpy as np
import pytest

from envs.libero.blocks.environment import load_initial_states, make_robosuite_env
from envs.libero.osc import osc_torques


@pytest.mark.parametrize("task", ["put_blue_cube_in_box", "push_orange_bar_to_black_strip"])
def test_exact_stepper_equals_robosuites_own_loop(exact_env, scene, task):
    rng = np.random.default_rng(3)
    chunks = rng.uniform(-1.2, 1.2, (6, 8, 7))
    chunks[3:5, :, 3:6] = 0.0  # robosuite keeps the goal orientation for exact zeros
    chunks[:, :, 2] -= 0.5  # down, into the objects

    np.random.seed(0)
    stock = make_robosuite_env(task)
    np.random.seed(0)
    stock.reset()
    # What LIBERO's ControlEnv.set_init_state does.
    stock.sim.set_state_from_flattened(load_initial_states()[f"{task}/train"][4])
    stock.sim.forward()
    stock._check_success()
    stock._post_process()
    stock._update_observables(force=True)

    exact_env.reset(options={"scene": scene(task, 4)})
    for chunk in chunks:
        _, _, terminated, _, info = exact_env.step(chunk)
        for action in chunk[: info["num_control_steps"]]:
            stock.step(action)
        ours, theirs = exact_env.robosuite_env.sim.data, stock.sim.data
        assert np.array_equal(ours.qpos, theirs.qpos)
        assert np.array_equal(ours.qvel, theirs.qvel)
        assert np.array_equal(ours.qacc_warmstart, theirs.qacc_warmstart)
        assert ours.ncon == theirs.ncon
        if terminated:
            break


def test_compiled_torques_equal_robosuites_controller(exact_env, scene):
    exact_env.reset(options={"scene": scene("lift_red_cube", 2)})
    rng = np.random.default_rng(0)
    robot = exact_env.robosuite_env.robots[0]
    controller = robot.controller
    data = exact_env.robosuite_env.sim.data._data
    low, high = robot.torque_limits
    for _ in range(5):
        exact_env.step(rng.uniform(-1, 1, (4, 7)))
        controller.set_goal(rng.uniform(-1, 1, 6))
        expected = np.clip(controller.run_controller(), low, high)
        torques = np.zeros(7)
        nv = len(data.qvel)
        jac_pos, jac_rot, mass = np.zeros((3, nv)), np.zeros((3, nv)), np.zeros((nv, nv))
        dofs = np.array(controller.qvel_index)
        jac_pos[:, dofs], jac_rot[:, dofs] = controller.J_pos, controller.J_ori
        mass[np.ix_(dofs, dofs)] = controller.mass_matrix
        osc_torques(
            controller.goal_pos, controller.goal_ori, controller.ee_pos, controller.ee_ori_mat.reshape(9),
            jac_pos, jac_rot, mass, data.qpos, data.qvel, np.array(controller.qpos_index), dofs,
            controller.initial_joint, controller.kp, controller.kd, data.qfrc_bias, np.array(low),
            np.array(high), torques,
        )  # fmt: skip
        assert np.abs(expected).max() > 5.0
        np.testing.assert_allclose(torques, expected, rtol=1e-7, atol=1e-7)


def test_fast_and_exact_stepping_agree_while_nothing_touches(env, exact_env, scene):
    chosen = scene("lift_red_cube", 5)
    chunk = np.random.default_rng(1).uniform(-0.7, 0.7, (8, 7))
    chunk[:, 2] = 0.5
    ends = []
    for either in (env, exact_env):
        start = either.reset(options={"scene": chosen})[0]["proprio"]
        if either is exact_env:
            # robosuite's first simulation step acts on the pose at construction; the fast stepper's does not.
            either.robosuite_env.robots[0].controller.new_update = True
        end = either.step(chunk)[0]["proprio"]
        ends.append(either.robosuite_env.sim.data.qpos[:7].copy())  # the arm
        assert np.linalg.norm((end - start)[:3]) > 0.03
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)


def test_vanishing_rotation_commands_hold_the_orientation(env, scene):
    chunk = np.random.default_rng(2).uniform(-1, 1, (8, 7))
    final = []
    for rotation in (0.0, 1e-8):
        chunk[:, 3:6] = rotation
        env.reset(options={"scene": scene("lift_red_cube", 5)})
        env.step(chunk)
        final.append(env.robosuite_env.sim.get_state().flatten())
    assert np.array_equal(*final)


def test_rotation_commands_turn_the_gripper(env, scene):
    env.reset(options={"scene": scene("lift_red_cube", 5)})
    before = env.step(np.zeros((1, 7)))[0]["proprio"][3:6]
    chunk = np.zeros((8, 7))
    chunk[:, 5] = 1.0
    after = env.step(chunk)[0]["proprio"][3:6]
    assert np.linalg.norm(after - before) > 0.2
