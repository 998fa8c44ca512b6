"""What training starts from: released checkpoints, adapters, new proprio projectors."""

import dataclasses

import numpy as np
import pytest
import torch

from policies.openvla_oft import CheckpointError, OpenVLAOFTPolicy
from policies.openvla_oft.lora import lora_state_dict
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.dataset import ChunkDataset
from rllib_vla.sft.evaluation import BestCheckpoint
from rllib_vla.sft.policy import make_policy
from rllib_vla.sft.trainer import SFTTrainer
from tests.rllib_vla.sft.conftest import make_policy as small_policy


@pytest.fixture
def base(tmp_path, demonstrations):
    """A checkpoint without proprioception, trained on something else."""
    path = tmp_path / "base"
    policy = small_policy(demonstrations, action_slot_embeddings=False)  # as released ones: any chunk fits
    policy.norm_stats = {"other": policy.norm_stats["blocks"]}
    policy.unnorm_key = "other"
    policy.save_pretrained(path)
    return path


def config_for(base, tmp_path, **changes):
    values = {"demos_dir": "unused", "output_dir": str(tmp_path / "run"), "tasks": ["lift"], "device": "cpu"}
    values |= {"num_steps": 3, "batch_size": 2, "unnorm_key": "blocks", "model_path": str(base)}
    return SFTConfig.from_dict(values | changes)


def trainer_for(config, demonstrations):
    torch.manual_seed(0)
    policy = make_policy(config, demonstrations, demonstrations)
    return SFTTrainer(config, policy, ChunkDataset(demonstrations, policy, augmented=True))


def test_statistics_are_added_and_the_checkpoints_own_win(base, tmp_path, demonstrations):
    policy = make_policy(config_for(base, tmp_path), demonstrations, demonstrations)
    assert set(policy.norm_stats) == {"blocks", "other"}
    assert policy.unnorm_key == "blocks"
    few = demonstrations[:2]
    kept = make_policy(config_for(base, tmp_path, unnorm_key="other"), few, few)
    assert kept.norm_stats["other"]["num_trajectories"] == len(demonstrations)


def test_chunk_and_proprioception_can_be_adapted(base, tmp_path, demonstrations):
    config = config_for(base, tmp_path, policy={"use_proprio": True, "chunk_size": 4})
    trainer = trainer_for(config, demonstrations)
    assert trainer.model.proprio_projector.fc1.weight.shape == (32, 8)
    assert trainer.dataset.batch(torch.tensor([0]))["bins"].shape == (1, 28)
    trainer.fit()
    trainer.save_policy(tmp_path / "out")
    loaded = OpenVLAOFTPolicy.from_pretrained(tmp_path / "out")
    assert loaded.config.use_proprio
    assert loaded.config.chunk_size == 4
    with pytest.raises(CheckpointError, match="no proprio projector"):
        OpenVLAOFTPolicy.from_pretrained(base, "other", use_proprio=True)


@pytest.mark.parametrize("frozen_dtype", ["float32", "bfloat16"])
def test_adapters_alone_are_trained_and_merged_into_the_checkpoint(base, tmp_path, demonstrations, frozen_dtype):
    lora = {"rank": 4, "alpha": 4}
    config = config_for(base, tmp_path, lora=lora, precision="bfloat16", frozen_dtype=frozen_dtype)
    trainer = trainer_for(config, demonstrations)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    after = trainer.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith((".lora_A", ".lora_B")) for name in changed)
    dtype = getattr(torch, frozen_dtype)
    assert after["language_model.model.norm.weight"].dtype == dtype
    trainer.save_policy(tmp_path / "out")
    assert lora_state_dict(trainer.model)  # training goes on with adapters
    saved = OpenVLAOFTPolicy.from_pretrained(tmp_path / "out", dtype=dtype)
    assert not lora_state_dict(saved.model)
    merged = trainer.finish().model.state_dict()
    assert all(torch.equal(value, merged[name]) for name, value in saved.model.state_dict().items())
    assert not torch.equal(
        merged["language_model.model.layers.0.mlp.up_proj.weight"],
        before["language_model.model.layers.0.mlp.up_proj.weight"],
    )


def test_interrupted_training_of_adapters_resumes_to_the_same_weights(base, tmp_path, demonstrations):
    config = config_for(base, tmp_path, lora={"rank": 4, "alpha": 4}, policy={"use_proprio": True})
    unbroken = trainer_for(config, demonstrations)
    unbroken.fit()
    config = dataclasses.replace(config, output_dir=str(tmp_path / "again"), checkpoint_every_steps=1)
    stopped = trainer_for(config, demonstrations)
    stopped.fit(until=2)
    assert not any("q_proj.weight" in name for name in torch.load(stopped.state_path)["model"])  # only what is trained
    resumed = trainer_for(config, demonstrations)
    resumed.load_state()
    assert resumed.step == 2
    resumed.fit()
    expected = unbroken.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_a_new_projector_is_trained_as_a_whole_beside_adapters(base, tmp_path, demonstrations):
    config = config_for(base, tmp_path, lora={"rank": 4, "alpha": 4}, policy={"use_proprio": True})
    trainer = trainer_for(config, demonstrations)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {f"proprio_projector.{part}" for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")} <= trained
    assert not any(name.startswith("proprio_projector") and "lora" in name for name in trained)
    before = trainer.model.proprio_projector.fc1.weight.detach().clone()
    trainer.fit()
    assert not np.array_equal(before, trainer.model.proprio_projector.fc1.weight.detach())


def test_adapters_over_bfloat16_with_a_projector_in_float32_are_evaluated(base, tmp_path, demonstrations):
    numbers = {"precision": "bfloat16", "frozen_dtype": "bfloat16", "lora": {"rank": 4, "alpha": 4}}
    evaluation = {"num_scenes_per_task": 1, "env_config": {"tolerance": 0.4}}
    suite = {"suite": "tests.toy_suite:SUITE", "tasks": ["go_left"], "evaluation": evaluation}
    config = config_for(base, tmp_path, policy={"use_proprio": True}, num_steps=1, **numbers, **suite)
    trainer = trainer_for(config, demonstrations)
    trainer.fit(after_step=BestCheckpoint(config, tmp_path / "out"))
    assert trainer.best["step"] == 1
    assert 0.0 <= trainer.best["success_rate"] <= 1.0
    assert OpenVLAOFTPolicy.from_pretrained(tmp_path / "out").config.use_proprio
