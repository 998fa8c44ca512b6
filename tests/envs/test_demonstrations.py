import json

import h5py
import numpy as np
import pytest

import envs
from envs import demonstrations
from envs.libero.blocks.environment import load_initial_states


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A directory with two tasks, two demonstrations each."""
    out = tmp_path_factory.mktemp("demos")
    tasks = ["lift_blue_cube", "push_orange_bar_to_black_strip"]
    demonstrations.main(["--out", str(out), "--tasks", *tasks, "--num-demos", "2", "--image-size", "48"])
    return out


def test_files_have_liberos_layout(recorded):
    assert sorted(path.name for path in recorded.iterdir()) == [
        "lift_blue_cube_demo.hdf5",
        "push_orange_bar_to_black_strip_demo.hdf5",
    ]
    with h5py.File(recorded / "lift_blue_cube_demo.hdf5") as file:
        data = file["data"]
        info = json.loads(data.attrs["problem_info"])
        assert info["language_instruction"] == "lift the blue cube"
        assert json.loads(data.attrs["env_args"])["suite"] == "libero_blocks"
        assert data.attrs["num_demos"] == 2
        assert data.attrs["total"] == sum(len(demo["actions"]) for demo in data.values())
        for demo in data.values():
            length = demo.attrs["num_samples"]
            assert demo["actions"].shape == (length, 7)
            assert demo["actions"].dtype == np.float64
            assert demo["states"].shape == (length, 58)
            assert demo["obs/agentview_rgb"].shape == (length, 48, 48, 3)
            assert demo["obs/agentview_rgb"].dtype == np.uint8
            assert demo.attrs["success"]
            assert set(np.unique(demo["actions"][:, 6])) == {-1.0, 1.0}
            assert np.abs(demo["actions"]).max() <= 1.0


def test_eight_steps_follow_the_first_success(recorded):
    with h5py.File(recorded / "lift_blue_cube_demo.hdf5") as file:
        for demo in file["data"].values():
            dones = demo["dones"][:]
            assert dones.sum() == 9
            assert (np.diff(dones.astype(int)) >= 0).all()
            assert np.array_equal(dones, demo["rewards"][:])


def test_frames_rotated_back_are_the_policys_and_actions_replay(recorded):
    env = envs.make_env("libero_blocks", image_size=48)
    with h5py.File(recorded / "lift_blue_cube_demo.hdf5") as file:
        demo = file["data/demo_1"]
        scene = envs.list_scenes("libero_blocks", "train", ["lift_blue_cube"])[0]
        observation, _ = env.reset(options={"scene": scene, "initial_state": demo["states"][0]})
        frames = demo["obs/agentview_rgb"][:][:, ::-1, ::-1]
        first_success = int(np.argmax(demo["dones"]))
        for start in range(0, first_success + 1, 8):
            assert np.array_equal(observation["image"], frames[start])
            assert np.array_equal(env.robosuite_env.sim.get_state().flatten(), demo["states"][start])
            observation, _, terminated, _, _ = env.step(demo["actions"][start : start + 8])
    assert terminated
    env.close()


def test_same_seed_records_the_same_demonstrations(env):
    def record(seed):
        demos, _ = demonstrations.record_task(
            env, "libero_blocks", "lift_red_cube", 2, seed, action_noise=0.2, wander_steps=6
        )
        return demos

    first, again, other = record(0), record(0), record(1)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.states, b.states)
        assert np.array_equal(a.actions, b.actions)
        assert np.array_equal(a.frames, b.frames)
    assert not np.array_equal(first[0].states[0], other[0].states[0])


def test_demonstrations_start_from_states_of_neither_split(env):
    demos, _ = demonstrations.record_task(env, "libero_blocks", "lift_red_cube", 3, 0)
    stored = load_initial_states()
    for demo in demos:
        for split in ("train", "eval"):
            objects = stored[f"lift_red_cube/{split}"][:, 10:]
            assert np.abs(objects - demo.states[0][10:]).max(axis=1).min() > 1e-3


def test_wandering_moves_the_arm_before_the_expert_takes_over(env, scene):
    chosen = scene("lift_red_cube", 3)
    still = demonstrations.record_demonstration(env, chosen)
    wandered = demonstrations.record_demonstration(env, chosen, wander_steps=6, rng=np.random.default_rng(1))
    assert np.linalg.norm(wandered.proprio[0, :3] - still.proprio[0, :3]) > 0.005
    assert np.array_equal(wandered.proprio[0, 6:].round(3), still.proprio[0, 6:].round(3))  # fingers stay open
    assert wandered.success


def test_noise_is_executed_but_not_recorded(env, scene):
    chosen = scene("lift_red_cube", 3)
    clean = demonstrations.record_demonstration(env, chosen)
    noisy = demonstrations.record_demonstration(env, chosen, action_noise=0.3, rng=np.random.default_rng(0))
    assert np.array_equal(clean.actions[0], noisy.actions[0])
    assert not np.array_equal(clean.states[1], noisy.states[1])


def test_unknown_task_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        demonstrations.main(["--out", str(tmp_path / "demos"), "--tasks", "lift_bleu_cube"])
    assert "did you mean 'lift_blue_cube'" in capsys.readouterr().err
    assert not (tmp_path / "demos").exists()


def test_wandering_for_more_than_a_chunk_is_refused_before_anything_is_written(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "demos"), "--tasks", "lift_blue_cube", "--wander-steps", "5"]
    with pytest.raises(SystemExit):
        demonstrations.main([*arguments, "--config", '{"chunk_size": 4}'])
    assert "--wander-steps must be at most 4, the environment's chunk size" in capsys.readouterr().err
    assert not (tmp_path / "demos").exists()
