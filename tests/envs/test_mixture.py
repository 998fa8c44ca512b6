import dataclasses

import gymnasium as gym
import numpy as np
import pytest

import envs
from envs import mixture
from tests import toy_suite

TOY, FAR = toy_suite.SUITE.name, toy_suite.FAR_SUITE.name
MIXED = f"{TOY}+{FAR}"


def play(env, scene, num_chunks=2):
    """Returns the frames and instructions of an episode of fixed actions."""
    observation, _ = env.reset(options={"scene": scene})
    seen = [observation]
    for index in range(num_chunks):
        seen.append(env.step(np.full((8, 7), 0.1 * (index + 1)))[0])
    return [(observation["image"].tobytes(), observation["instruction"]) for observation in seen]


def test_scenes_are_those_of_the_members_in_order():
    for split in ("train", "eval"):
        scenes = envs.list_scenes(MIXED, split)
        assert scenes == envs.list_scenes(TOY, split) + envs.list_scenes(FAR, split)
    chosen = envs.list_scenes(MIXED, "train", ["go_far_left", "go_right"])
    assert [scene.task for scene in chosen] == ["go_far_left"] * 5 + ["go_right"] * 6
    assert {scene.suite for scene in chosen} == {TOY, FAR}
    with pytest.raises(ValueError, match="did you mean 'go_far_left'"):
        envs.list_scenes(MIXED, "train", ["go_far_lft"])


def test_each_scene_is_played_by_its_own_suite():
    mixed = envs.make_env(MIXED, tolerance=0.1, far=False)
    for suite in (TOY, FAR, TOY):
        scene = envs.list_scenes(suite, "train")[-1]
        assert play(mixed, scene) == play(envs.make_env(suite, tolerance=0.1), scene)
        assert mixed.max_control_steps == envs.list_tasks(suite)[scene.task_id].max_control_steps


def test_snapshots_find_their_way_back():
    mixed = envs.make_env(MIXED)
    ours, theirs = envs.list_scenes(TOY, "train")[0], envs.list_scenes(FAR, "train")[0]
    expected = play(mixed, ours)[-1]
    mixed.reset(options={"scene": ours})
    mixed.step(np.full((8, 7), 0.1))
    snapshot = mixed.save_state()
    play(mixed, theirs)
    mixed.load_state(snapshot)
    observation = mixed.step(np.full((8, 7), 0.2))[0]
    assert (observation["image"].tobytes(), observation["instruction"]) == expected


def test_settings_go_to_the_members_that_know_them():
    assert envs.make_env(MIXED, far=False)._members[FAR].far is False
    with pytest.raises(ValueError, match="did you mean 'tolerance'"):
        envs.make_env(MIXED, tolerence=0.1)


def test_spaces_hold_what_any_member_says():
    observation, action = envs.make_spaces(MIXED)
    assert action.shape == (8, 7)
    for suite in (TOY, FAR):
        env = envs.make_env(suite)
        assert observation.contains(env.reset(options={"scene": envs.list_scenes(suite, "train")[0]})[0])


@pytest.mark.parametrize("name", [f"{TOY}+{TOY}", f"{TOY}+", "+", ""])
def test_a_mixture_names_different_suites(name):
    with pytest.raises(ValueError, match="a mixture names different suites"):
        envs.list_tasks(name)


def test_a_task_name_must_be_unambiguous():
    with pytest.raises(ValueError, match="a task 'go_left' is in suite"):
        envs.list_scenes(f"{TOY}+{toy_suite.FLEETING_SUITE.name}", "train")


def test_what_differs_cannot_be_mixed(monkeypatch):
    other = dataclasses.replace(toy_suite.FAR_SUITE, gripper_convention=None)
    with pytest.raises(ValueError, match="gripper conventions differ"):
        mixture.mixed_suite("x", [toy_suite.SUITE, other])
    ours, theirs = envs.make_env(TOY), envs.make_env(FAR)
    theirs.action_space = gym.spaces.Box(-1, 1, (25, 14), np.float32)
    with pytest.raises(ValueError, match=r"action chunks have shape \[8, 7\] and \[25, 14\]"):
        mixture.MixedEnv({"a": ours, "b": theirs})
    with pytest.raises(ValueError, match="unknown suite 'robotwin3'"):
        envs.get_suite("robotwin2+robotwin3")


def test_mixtures_of_the_built_in_suites_agree():
    for members in (["libero_spatial", "libero_object", "libero_blocks"], ["robotwin2", "robotwin1"]):
        suite = envs.get_suite("+".join(members))
        assert suite.gripper_convention == envs.get_suite(members[0]).gripper_convention


def test_memory_counts_the_models_of_all_members():
    assert envs.memory_gb("libero_blocks", ["lift_red_cube"]) == pytest.approx(0.5 + 0.1)
    assert envs.memory_gb("libero_spatial") == pytest.approx(0.5 + 0.7)
    everything = envs.memory_gb("libero_spatial+libero_goal")
    assert everything == pytest.approx(envs.memory_gb("libero_spatial") + envs.memory_gb("libero_goal") - 0.5)
    assert envs.memory_gb(MIXED, ["go_far_left"]) == pytest.approx(0.5 + 0.5)


def test_objects_are_those_of_the_scenes_suite():
    mixed, alone = envs.make_env(MIXED), envs.make_env(FAR)
    scene = envs.list_scenes(FAR, "train")[0]
    for env in (mixed, alone):
        env.reset(options={"scene": scene})
    assert mixed.object_state() == alone.object_state()


def test_the_member_learns_that_nobody_observes_the_end():
    mixed = envs.make_env(MIXED)
    for observes_end in (False, True):
        mixed.observes_end = observes_end
        mixed.reset(options={"scene": envs.list_scenes(FAR, "train")[0]})
        mixed.step(np.zeros((8, 7)))
        assert mixed._members[FAR].observes_end == observes_end
