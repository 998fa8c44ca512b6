"""What LIBERO's engine tells about the object of a task, on the motions of the scripted experts."""

import numpy as np
import pytest

import envs

LIFT = envs.list_scenes("libero_blocks", "eval", ["lift_red_cube"])


@pytest.fixture(scope="module", params=["fast", "exact"])
def env(request):
    env = envs.make_env("libero_blocks", stepping=request.param)
    yield env
    env.close()


@pytest.fixture(scope="module")
def play_expert():
    """Returns a function: task to the object's state before and after every control step of the expert."""
    env = envs.make_env("libero_blocks")

    def play(task):
        scene = envs.list_scenes("libero_blocks", "eval", [task])[0]
        expert, states, success = _start_expert(env, scene), [env.object_state()], False
        while not success:
            _, _, success, truncated, _ = env.step(expert.act()[None])
            states.append(env.object_state())
            assert not truncated
        return states

    yield play
    env.close()


def test_a_lifted_cube_is_grasped_and_rises(play_expert):
    states = play_expert("lift_red_cube")
    assert (states[0].grasped, states[0].touched) == (False, False)
    assert (states[-1].grasped, states[-1].touched) == (True, True)
    assert states[-1].position[2] - states[0].position[2] > 0.04
    first = next(i for i, state in enumerate(states) if state.grasped)
    assert states[first].position[2] - states[0].position[2] < 0.01  # grasped before it rises


def test_a_pushed_bar_is_touched_but_not_grasped_and_stays_down(play_expert):
    states = play_expert("push_orange_bar_to_black_strip")
    assert any(state.touched for state in states)
    assert not any(state.grasped for state in states)
    assert states[-1].position[0] - states[0].position[0] > 0.02
    assert max(abs(state.position[2] - states[0].position[2]) for state in states) < 0.01


def test_the_experts_ways_of_transport(play_expert):
    from rllib_vla.evaluation.object_motion import measure_motion

    assert measure_motion(play_expert("move_green_cube_to_yellow_square")).transport == "carried"
    assert measure_motion(play_expert("push_orange_bar_to_black_strip")).transport == "pushed"


def test_a_loaded_start_is_told_like_its_reset(env):
    """Whatever was played in between: poses and contacts are those of the state that was loaded."""
    env.reset(options={"scene": LIFT[0]})
    start, saved = env.object_state(), env.save_state()
    expert = _start_expert(env, LIFT[1])
    while not env.object_state().grasped:
        env.step(expert.act()[None])
    held, saved_held = env.object_state(), env.save_state()
    env.load_state(saved)
    assert env.object_state() == start
    env.load_state(saved_held)
    assert env.object_state() == held


def test_to_be_asked_changes_nothing(env):
    def play(asks):
        expert, success, states = _start_expert(env, LIFT[0]), False, []
        while not success:
            _, _, success, _, _ = env.step(expert.act()[None])
            states.append(env.save_state().simulator.physics)
            for _ in range(asks):
                env.object_state()
        return states

    np.testing.assert_array_equal(play(asks=0), play(asks=2))


def test_a_suite_that_cannot_tell_says_so():
    class Silent(envs.ManipulationEnv):
        max_control_steps = save_state = load_state = None

    with pytest.raises(NotImplementedError, match="Silent does not tell where objects are"):
        Silent().object_state()


def test_which_suites_tell():
    told = {name: envs.tells_object_states(name) for name in envs.list_suites()}
    assert {name for name, tells in told.items() if not tells} == {"robotwin1", "robotwin2"}
    assert not envs.tells_object_states("bimanual+robotwin2")


def _start_expert(env, scene):
    from envs.libero.blocks.experts import make_expert

    env.reset(options={"scene": scene})
    return make_expert(env.robosuite_env, scene)
