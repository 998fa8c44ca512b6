import dataclasses
import json

import numpy as np
import pytest
import torch

from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy, libero_gripper_from_env
from rllib_vla.sft.dataset import ChunkDataset, demonstration_statistics, encode_actions
from rllib_vla.sft.demonstrations import Demonstration, DemonstrationError
from tests.rllib_vla.sft.conftest import make_policy


def demonstration(actions, instruction="lift the cube", size=96):
    """A demonstration whose frame t is uniformly t."""
    frames = np.broadcast_to(
        np.arange(len(actions), dtype=np.uint8)[:, None, None, None], (len(actions), size, size, 3)
    )
    return Demonstration("lift", instruction, frames, np.asarray(actions, np.float32), None, "test")


@pytest.fixture
def full_range_policy():
    """Statistics with q01 = -1 and q99 = 1, so that the labels are the bins of the actions themselves."""
    limits = {"q01": [-1.0] * 5 + [0.25, 0.0], "q99": [1.0] * 5 + [0.25, 1.0], "mask": [True] * 6 + [False]}
    stats = {"blocks": {"action": limits | {"mean": [0.0] * 7}}}
    return OpenVLAOFTPolicy.from_scratch(OpenVLAOFTConfig.preset("tiny"), ["lift the cube"], stats)


def test_labels_are_the_ids_of_the_specification(full_range_policy):
    # Spec sections 3.7 and 7 with a vocabulary of 32000: -1 -> 31999, 0 -> 31872, 0.5 -> 31808, 1 -> 31744.
    # Dimension 5 is constant (-> 0); the gripper is open (-1 -> 1 -> 31744), then closed (+1 -> 0 -> 31872).
    actions = [[-1.0, 0.0, 0.5, 1.0, 2.0, 0.25, -1.0], [-1.0, 0.0, 0.5, 1.0, -2.0, 0.25, 1.0]]
    ids = 31744 + encode_actions(libero_gripper_from_env(np.float32(actions)), full_range_policy)
    assert ids.tolist() == [
        [31999, 31872, 31808, 31744, 31744, 31872, 31744],
        [31999, 31872, 31808, 31744, 31999, 31872, 31872],
    ]


def test_every_timestep_with_a_full_chunk_and_no_other_is_a_window(full_range_policy):
    lengths = [8, 20, 7, 9]
    dataset = ChunkDataset([demonstration(np.zeros((n, 7))) for n in lengths], full_range_policy, augmented=False)
    assert len(dataset) == 1 + 13 + 0 + 2


def test_window_has_the_frame_and_the_chunk_that_begin_at_its_timestep(full_range_policy):
    actions = np.zeros((12, 7))
    actions[:, 0] = np.linspace(-0.9, 0.9, 12)
    dataset = ChunkDataset(
        [demonstration(np.zeros((9, 7))), demonstration(actions)], full_range_policy, augmented=False
    )
    batch = dataset.batch(torch.tensor([2 + 3]))  # the first demonstration has 2 windows
    assert batch["images"].shape == (1, 1, 96, 96, 3)
    assert (batch["images"] == 3).all()
    chunk = batch["bins"].reshape(8, 7)
    decoded = full_range_policy.action_tokenizer.decode(chunk.numpy())
    np.testing.assert_allclose(decoded[:, 0], actions[3:11, 0], atol=1 / 255)


def test_prompt_belongs_to_the_demonstration_and_lengths_are_padded(demonstrations, policy):
    dataset = ChunkDataset(demonstrations, policy, augmented=False)
    batch = dataset.batch(torch.tensor([0, len(dataset) - 1]))
    for row, text in enumerate(["lift the cube", "push the cube"]):
        ids = batch["input_ids"][row][batch["attention_mask"][row]]
        assert ids.tolist() == policy.processor.prompt_ids(text).tolist()


def test_augmented_frames_keep_the_border_that_the_image_chain_crops(demonstrations, full_range_policy):
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:2] = 255  # inside the 2.6 % that the centre crop removes
    demo = Demonstration("lift", "lift the cube", np.stack([frame] * 8), np.zeros((8, 7), np.float32), None, "test")
    config = OpenVLAOFTConfig.preset("tiny", image_chain="robotwin")
    policy = OpenVLAOFTPolicy.from_scratch(config, ["lift the cube"], full_range_policy.norm_stats)
    assert ChunkDataset([demo], policy, augmented=False).frames.max() == 0
    augmented = ChunkDataset([demo], policy, augmented=True)
    assert augmented.frames.max() == 255
    assert augmented.chain_crops


def test_batches_use_every_window_once_per_epoch_in_an_order_of_the_seed(demonstrations, policy):
    dataset = ChunkDataset(demonstrations, policy, augmented=False)
    size = 16
    steps = -(-2 * len(dataset) // size)
    drawn = np.concatenate([dataset.batch_indices(size, step, seed=3) for step in range(steps)])
    first, second = drawn[: len(dataset)], drawn[len(dataset) : 2 * len(dataset)]
    assert sorted(first) == sorted(second) == list(range(len(dataset)))
    assert first.tolist() != second.tolist()
    assert dataset.batch_indices(size, 2, seed=3).tolist() == drawn[2 * size : 3 * size].tolist()
    assert dataset.batch_indices(size, 2, seed=4).tolist() != drawn[2 * size : 3 * size].tolist()


def test_first_windows_come_as_often_as_asked_and_all_others_once(full_range_policy):
    dataset = ChunkDataset(
        [demonstration(np.zeros((n, 7))) for n in (8, 12)],  # windows 0 and 1..5
        full_range_policy,
        augmented=False,
        first_windows=2,
        first_window_repeats=3,
    )
    epoch = dataset.batch_indices(12, 0, seed=0)
    assert np.bincount(epoch).tolist() == [3, 3, 3, 1, 1, 1]


def test_statistics_are_those_of_the_policys_gripper_convention():
    actions = np.zeros((100, 7))
    actions[:, 0] = np.linspace(-0.5, 1.0, 100)
    actions[:, 6] = np.where(np.arange(100) < 75, -1.0, 1.0)
    stats = demonstration_statistics([demonstration(actions[:40]), demonstration(actions[40:])])
    assert stats["action"]["mean"][6] == pytest.approx(0.75)
    assert stats["action"]["mask"] == [True] * 6 + [False]
    assert stats["action"]["q01"][0] == pytest.approx(-0.485)
    assert (stats["num_trajectories"], stats["num_transitions"]) == (2, 100)


def test_statistics_have_the_released_keys_in_their_order(reference_fixtures, demonstrations):
    path = reference_fixtures.parent / "libero_bf16" / "dataset_statistics.json"
    released = json.loads(path.read_text())["libero_spatial_no_noops"]
    ours = demonstration_statistics(demonstrations)
    assert list(ours["action"]) == list(released["action"])
    assert list(ours["proprio"]) == list(released["proprio"])
    assert set(ours) == set(released)
    assert ours["action"]["mask"] == released["action"]["mask"]
    assert len(ours["proprio"]["q01"]) == len(released["proprio"]["q01"])


def test_statistics_are_those_of_the_reference_on_random_actions(demonstrations):
    # The reference concatenates all steps (the last C - 1 as well) and calls these NumPy functions.
    ours = demonstration_statistics(demonstrations)["action"]
    steps = np.concatenate([d.actions for d in demonstrations])
    steps[:, 6] = 1 - np.clip(steps[:, 6], 0, 1)
    for name, expected in {
        "mean": steps.mean(0),
        "std": steps.std(0),
        "max": steps.max(0),
        "min": steps.min(0),
        "q01": np.quantile(steps, 0.01, axis=0),
        "q99": np.quantile(steps, 0.99, axis=0),
    }.items():
        np.testing.assert_allclose(ours[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_actions_without_a_gripper_convention_are_all_normalised():
    actions = np.linspace(0, 1, 9 * 14).reshape(9, 14)
    demo = Demonstration("lift_pot", "x", np.zeros((9, 8, 8, 3), np.uint8), actions, None, "test", None)
    stats = demonstration_statistics([demo])
    assert stats["action"]["mask"] == [True] * 14
    assert stats["action"]["max"][6] == pytest.approx(actions[:, 6].max())
    with pytest.raises(DemonstrationError, match="different grippers"):
        demonstration_statistics([demo, demonstration(np.zeros((9, 14)))])


def test_two_arms_with_chunks_of_25_and_min_max_normalisation():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-2, 2, (30, 14)).astype(np.float32)
    actions[:, 13] = np.where(np.arange(30) < 10, 0.0, 1.0)
    demo = Demonstration("lift_pot", "x", np.zeros((30, 96, 96, 3), np.uint8), actions, None, "test", None)
    config = OpenVLAOFTConfig.preset("tiny", chunk_size=25, action_dim=14, action_normalization="bounds")
    policy = OpenVLAOFTPolicy.from_scratch(config, ["x"], {"pot": demonstration_statistics([demo])})
    dataset = ChunkDataset([demo], policy, augmented=False)
    assert len(dataset) == 6
    ids = policy.config.first_action_id + dataset.batch(torch.tensor([3]))["bins"]
    decoded = policy.decode(ids)[0]
    ranges = actions.max(axis=0) - actions.min(axis=0)
    assert (np.abs(decoded - actions[3:28]) <= ranges / 255 + 1e-6).all()


def test_demonstrations_that_do_not_fit_are_refused(full_range_policy):
    with pytest.raises(DemonstrationError, match="No demonstration has 8 steps"):
        ChunkDataset([demonstration(np.zeros((7, 7)))], full_range_policy, augmented=False)
    with pytest.raises(DemonstrationError, match="actions of 14 dimensions, the policy 7"):
        ChunkDataset([demonstration(np.zeros((9, 14)))], full_range_policy, augmented=False)
    stats = full_range_policy.norm_stats
    two_cameras = OpenVLAOFTPolicy.from_scratch(OpenVLAOFTConfig.preset("tiny", num_images=2), ["x"], stats)
    with pytest.raises(ValueError, match="num_images=2"):
        ChunkDataset([demonstration(np.zeros((9, 7)))], two_cameras, augmented=False)


def test_proprioception_is_normalised_with_the_statistics_and_belongs_to_the_frame(demonstrations):
    policy = make_policy(demonstrations, use_proprio=True)
    dataset = ChunkDataset(demonstrations, policy, augmented=False)
    stats = policy.norm_stats["blocks"]["proprio"]
    low, high = np.array(stats["q01"]), np.array(stats["q99"])
    expected = np.clip(2 * (demonstrations[0].proprio[4] - low) / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(dataset.batch(torch.tensor([4]))["proprio"][0], expected, atol=1e-5)


def test_missing_proprioception_is_refused(demonstrations):
    policy = make_policy(demonstrations, use_proprio=True)
    without = dataclasses.replace(demonstrations[0], proprio=None)
    with pytest.raises(DemonstrationError, match="no proprioception"):
        ChunkDataset([without], policy, augmented=False)


def test_digest_tells_other_demonstrations_from_the_same_ones():
    def digest(scale=1.0, instruction="lift the cube", statistics_of=()):
        demo = demonstration(scale * np.linspace(-1, 1, 84).reshape(12, 7), instruction)
        statistics = {"blocks": demonstration_statistics([demo, *statistics_of])}
        policy = OpenVLAOFTPolicy.from_scratch(OpenVLAOFTConfig.preset("tiny"), [instruction], statistics)
        return ChunkDataset([demo], policy, augmented=False, frames=np.zeros((5, 96, 96, 3), np.uint8)).digest

    assert digest() == digest()
    # Normalised by their own statistics, twice as large actions have the same labels; a word list of other words that
    # sort the same gives the same prompt ids.
    others = [digest(scale=2.0), digest(instruction="raise the cube")]
    others.append(digest(statistics_of=[demonstration(np.zeros((9, 7)))]))
    assert len({digest(), *others}) == 4
