import h5py
import numpy as np
import pytest

from rllib_vla.sft.demonstrations import DemonstrationError, load_demonstrations, read_libero_hdf5


def test_frames_come_back_upright_and_in_numeric_order(demos_dir):
    demos = read_libero_hdf5(demos_dir / "push_demo.hdf5")
    assert [len(d) for d in demos] == [10 + i for i in range(12)]
    assert demos[11].frames[7, 0, 0].tolist() == [11, 7, 0]
    assert demos[0].frames.dtype == np.uint8
    assert demos[0].actions.dtype == np.float32
    assert (demos[0].task, demos[0].instruction) == ("push", "push the cube")


def test_all_demonstrations_of_all_tasks_by_default(demos_dir):
    demos = load_demonstrations(demos_dir, ["lift", "push"])
    assert [d.task for d in demos] == 3 * ["lift"] + 12 * ["push"]


def test_subsets_are_nested_random_and_independent_of_other_tasks(demos_dir):
    def drawn(n, seed, tasks=("push",)):
        demos = load_demonstrations(demos_dir, list(tasks), demos_per_task=n, seed=seed)
        return [d.source for d in demos if d.task == "push"]

    assert drawn(3, 0) == drawn(3, 0)
    assert set(drawn(2, 0)) < set(drawn(5, 0))
    assert drawn(3, 0, ("lift", "push")) == drawn(3, 0)
    assert len({tuple(drawn(2, seed)) for seed in range(10)}) > 5


def test_too_few_demonstrations_are_refused(demos_dir):
    with pytest.raises(DemonstrationError, match="has 3 demonstrations, 4 were asked for"):
        load_demonstrations(demos_dir, ["lift"], demos_per_task=4)


def test_missing_task_names_those_present(demos_dir):
    with pytest.raises(FileNotFoundError, match=r"'stack'.*\['lift', 'push'\]"):
        load_demonstrations(demos_dir, ["stack"])


def damage_actions(demo):
    demo["actions"][5, 2] = np.nan


def damage_length(demo):
    actions = demo["actions"][:-1]
    del demo["actions"]
    demo["actions"] = actions


def damage_camera(demo):
    demo.move("obs/agentview_rgb", "obs/other_rgb")


def damage_dtype(demo):
    frames = demo["obs/agentview_rgb"][:].astype(np.float32)
    del demo["obs/agentview_rgb"]
    demo["obs/agentview_rgb"] = frames


def drop_actions(demo):
    del demo["actions"]


def drop_instruction(demo):
    demo.parent.attrs["problem_info"] = "{}"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_actions, "demo_1/actions is not finite at step 5"),
        (damage_length, "demo_1 has 9 frames for 8 actions"),
        (damage_camera, r"demo_1/obs has no 'agentview_rgb'; it has \['ee_states', 'gripper_states', 'other_rgb'\]"),
        (damage_dtype, "is float32 .* expected uint8"),
        (drop_actions, "demo_1 has no 'actions'"),
        (drop_instruction, "no 'language_instruction'"),
    ],
)
def test_damaged_file_is_refused_by_name(demos_dir, damage, message):
    path = demos_dir / "lift_demo.hdf5"
    with h5py.File(path, "r+") as file:
        damage(file["data/demo_1"])
    with pytest.raises(DemonstrationError, match=f"lift_demo.hdf5.*{message}"):
        read_libero_hdf5(path)
