import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policies.openvla_oft import OpenVLAOFTPolicy
from rllib_vla.sft.augmentation import AugmentationConfig
from rllib_vla.sft.config import SFTConfig
from rllib_vla.sft.dataset import ChunkDataset
from rllib_vla.sft.loss import token_loss
from rllib_vla.sft.trainer import SFTTrainer, learning_rate
from rllib_vla.sft.workers import Workers
from tests.rllib_vla.sft.conftest import make_policy


def config_for(tmp_path, **changes):
    values = {"num_steps": 6, "batch_size": 4, "lr": 1e-3, "warmup_steps": 2, "device": "cpu", "seed": 5}
    values |= {"demos_dir": "unused", "output_dir": str(tmp_path / "run"), "tasks": ["lift"]}
    return SFTConfig(**(values | changes))


def trainer_for(config, demonstrations):
    policy = make_policy(demonstrations)
    return SFTTrainer(config, policy, ChunkDataset(demonstrations, policy, augmented=config.augmentation.enabled))


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_learning_rate_schedules(tmp_path):
    cosine = config_for(tmp_path, num_steps=101, warmup_steps=11, lr=1.0, final_lr_fraction=0.1)
    assert learning_rate(cosine, 0) == pytest.approx(1 / 11)
    assert learning_rate(cosine, 11) == pytest.approx(1.0)
    assert learning_rate(cosine, 55) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 44 / 89)))
    assert learning_rate(cosine, 100) == pytest.approx(0.1)
    step = config_for(tmp_path, num_steps=100, warmup_steps=0, lr=1.0, schedule="constant_then_decay", decay_at=0.67)
    assert [learning_rate(step, s) for s in (0, 66, 67, 99)] == [1.0, 1.0, 0.1, 0.1]


def test_two_windows_are_learned_by_heart(tmp_path, demonstrations):
    short = [d for d in demonstrations if len(d) == 9][:1]
    config = config_for(tmp_path, num_steps=250, batch_size=2, lr=5e-3, augmentation=AugmentationConfig(enabled=False))
    trainer = trainer_for(config, short)
    first = trainer.train_step(1e-3)["loss"]
    trainer.fit()
    batch = trainer.dataset.batch(torch.tensor([0, 1]))
    bins = batch.pop("bins")
    policy = trainer.finish()
    with torch.no_grad():
        logits = policy.model(**batch)
    loss, accuracy = token_loss(logits, bins)
    assert first > 5.0
    assert loss < 0.1
    assert accuracy == 1.0


def test_interrupted_and_resumed_training_gives_the_same_weights(tmp_path, demonstrations):
    config = config_for(tmp_path, ema_decay=0.9)
    unbroken = trainer_for(config, demonstrations)
    unbroken.fit()

    config = config_for(tmp_path / "again", ema_decay=0.9)
    trainer_for(config, demonstrations).fit(until=3)
    resumed = trainer_for(config, demonstrations)
    resumed.load_state()
    assert resumed.step == 3
    resumed.fit()
    expected = weights(unbroken)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())
    assert all(torch.equal(value, unbroken.ema[name]) for name, value in resumed.ema.items())


def logged_steps(config):
    folder = f"{config.output_dir}/tensorboard"
    return [point.step for point in EventAccumulator(folder).Reload().Scalars("sft/loss")]


def test_tensorboard_keeps_the_point_of_the_step_that_is_resumed(tmp_path, demonstrations):
    config = config_for(tmp_path, num_steps=4, log_every_steps=1, checkpoint_every_steps=2)
    trainer_for(config, demonstrations).fit(until=2)
    resumed = trainer_for(config, demonstrations)
    resumed.load_state()
    resumed.fit(until=3)
    assert logged_steps(config) == [1, 2, 3]
    resumed = trainer_for(config, demonstrations)
    resumed.load_state()
    resumed.fit()
    assert logged_steps(config) == [1, 2, 3, 4]
    trainer_for(config, demonstrations).fit(until=1)  # a run of its own hides the earlier one
    assert logged_steps(config) == [1]


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path, demonstrations):
    after = []
    for micro in (None, 2):
        config = config_for(tmp_path, micro_batch_size=micro)
        trainer = trainer_for(config, demonstrations)
        trainer.train_step(1e-3)
        after.append({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
    whole, pieces = after
    assert whole.keys() == pieces.keys()
    for name, gradient in whole.items():
        np.testing.assert_allclose(pieces[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", ["action_bins", "full_vocabulary"])
def test_gradients_of_workers_add_up_to_those_of_one_process(tmp_path, demonstrations, loss):
    # What `Workers.sum_gradients` does by message, done here by hand; augmentation is on.
    config = config_for(tmp_path, loss=loss, grad_clip=None)

    def gradients(workers):
        policy = make_policy(demonstrations)
        trainer = SFTTrainer(config, policy, ChunkDataset(demonstrations, policy, augmented=True), workers)
        trainer.train_step(1e-3)
        return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}

    class Alone(Workers):
        def sum_gradients(self, parameters):
            pass

        def sum_values(self, values, device):
            return values

    whole = gradients(None)
    first, second = gradients(Alone(0, 2)), gradients(Alone(1, 2))
    for name, gradient in whole.items():
        np.testing.assert_allclose(first[name] + second[name], gradient, rtol=1e-4, atol=1e-7)
    assert not all(torch.equal(first[name], second[name]) for name in whole)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_that_a_thread_prepares_give_the_same_weights(tmp_path, demonstrations, ahead):
    trained = []
    for prefetch in (0, ahead):
        trainer = trainer_for(config_for(tmp_path, prefetch_batches=prefetch), demonstrations)
        trainer.fit()
        trained.append(weights(trainer))
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())


def test_gradient_checkpointing_changes_no_gradient(tmp_path, demonstrations):
    after = []
    for recompute in (False, True):
        trainer = trainer_for(config_for(tmp_path, gradient_checkpointing=recompute), demonstrations)
        trainer.train_step(1e-3)
        after.append({name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None})
    for name, gradient in after[0].items():
        np.testing.assert_allclose(after[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_bfloat16_stays_near_float32(tmp_path, demonstrations):
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = trainer_for(config_for(tmp_path, precision=precision), demonstrations)
        losses.append(trainer.train_step(1e-3)["loss"])
        assert trainer.model.dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_average_is_what_is_saved(tmp_path, demonstrations):
    trainer = trainer_for(config_for(tmp_path, num_steps=4, ema_decay=0.9), demonstrations)
    history = [{k: v.detach().clone() for k, v in trainer.model.named_parameters()}]
    for _ in range(4):
        trainer.train_step(1e-2)
        history.append({k: v.detach().clone() for k, v in trainer.model.named_parameters()})
    name = "language_model.lm_head.weight"
    average = history[0][name]
    for step, snapshot in enumerate(history[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * snapshot[name]
    trainer.save_policy(tmp_path / "saved")
    assert torch.equal(trainer.model.get_parameter(name), history[-1][name])  # training goes on from where it was
    saved = OpenVLAOFTPolicy.from_pretrained(tmp_path / "saved").model.get_parameter(name)
    np.testing.assert_allclose(saved.detach(), average, rtol=1e-5, atol=1e-7)
    trainer.finish()
    np.testing.assert_allclose(trainer.model.get_parameter(name).detach(), average, rtol=1e-5, atol=1e-7)


def test_weight_decay_leaves_norms_biases_and_embeddings_alone(tmp_path, demonstrations):
    trainer = trainer_for(config_for(tmp_path), demonstrations)
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups)
    assert "language_model.lm_head.weight" in decayed
    assert "language_model.model.layers.0.mlp.up_proj.weight" in decayed
    assert {
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "projector.fc1.bias",
    } <= free
    assert len(decayed) + len(free) == len(names)


def test_state_of_other_settings_or_a_damaged_one_is_refused(tmp_path, demonstrations):
    trainer = trainer_for(config_for(tmp_path), demonstrations)
    trainer.fit(until=1)
    other = trainer_for(config_for(tmp_path, lr=2e-3), demonstrations)
    with pytest.raises(ValueError, match=r"other settings \(lr: 0.001 -> 0.002\)"):
        other.load_state()
    content = trainer.state_path.read_bytes()
    trainer.state_path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        trainer.load_state()
    trainer.state_path.unlink()
    with pytest.raises(FileNotFoundError, match="Nothing to resume"):
        trainer.load_state()


def test_gradient_that_is_not_finite_stops_the_run_before_it_reaches_the_weights(tmp_path, demonstrations):
    trainer = trainer_for(config_for(tmp_path), demonstrations)
    with torch.no_grad():
        trainer.model.language_model.lm_head.weight[:] = torch.inf
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match="at step 0"):
        trainer.train_step(1e-3)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
