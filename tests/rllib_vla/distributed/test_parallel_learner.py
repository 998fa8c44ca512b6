"""Sharded learners in a process group of one, against plain ones."""

import threading

import pytest
import torch
import torch.distributed.checkpoint as dcp
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_vla import metrics as names
from rllib_vla.checkpoints import TrainingCheckpointError
from rllib_vla.distributed import learner_shards
from rllib_vla.distributed.learner_shards import load_weights
from rllib_vla.distributed.sharded_weights import from_numpy
from tests.rllib_vla.toy import episodes_of, learner_results, make_learner, toy_config, weights_of

pytestmark = pytest.mark.usefixtures("process_group")
# Steps that are proportional to the gradient: with Adam's own tiny epsilon, rounding of a vanishing gradient decides
# over the sign of a whole step.
PROPORTIONAL = {"lr": 1.0, "adam_epsilon": 1.0}


def config_of(policy_dir, *, model=None, learners=None, **training):
    config = toy_config(policy_dir, **(PROPORTIONAL | training))
    config.rl_module(model_config={"model_path": policy_dir} | (model or {}))
    return config.learners(**(learners or {}))


def sharded(policy_dir, *, learners=None, **kwargs):
    return make_learner(
        config_of(policy_dir, learners={"num_learners": 1, "parallelism": "fsdp2"} | (learners or {}), **kwargs)
    )


def update(learner, groups):
    results = learner.update(episodes=episodes_of(groups), minibatch_size=len(groups) * 4, num_epochs=1)
    return learner_results(learner, results)


def published(learner):
    """The weights for environment runners, as tensors."""
    state = learner.module[DEFAULT_MODULE_ID].get_state(inference_only=True)
    return {name: from_numpy(array).clone() for name, array in state.items()}


def assert_close(weights, expected, **tolerances):
    assert weights.keys() == expected.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], expected[name], msg=name, **tolerances)


@pytest.mark.parametrize(
    ("learners", "training"),
    [
        ({}, {}),
        ({"activation_checkpointing": True, "cpu_offload": True}, {"micro_batch_tokens": 900, "grad_clip": 1e-2}),
        ({}, {"kl_coeff": 0.1}),
    ],
    ids=["plain", "offloaded", "kl"],
)
def test_shards_learn_what_the_whole_learns(toy_policy_dir, toy_groups, learners, training):
    plain = make_learner(config_of(toy_policy_dir, **training))
    shards = sharded(toy_policy_dir, learners=learners, **training)
    assert_close(published(shards), weights_of(plain), atol=0, rtol=0)  # read from the files, row by row
    for _ in range(2):
        expected, results = update(plain, toy_groups[:2]), update(shards, toy_groups[:2])
        for name in ("policy_loss", "entropy", "gradients_default_optimizer_global_norm", "total_loss"):
            assert results[name] == pytest.approx(float(expected[name]), rel=1e-4, abs=1e-6), name
    assert_close(published(shards), weights_of(plain), atol=1e-6, rtol=0)


def test_lora_shards_send_adapters_only(toy_policy_dir, toy_groups):
    lora = {"lora": {"rank": 4}}
    plain = make_learner(config_of(toy_policy_dir, model=lora))
    shards = sharded(toy_policy_dir, model=lora)
    results = [update(learner, toy_groups[:2]) for learner in (plain, shards)]
    own = {name: from_numpy(array) for name, array in plain.module[DEFAULT_MODULE_ID].get_state().items()}
    assert_close(published(shards), own, atol=1e-6, rtol=0)
    assert results[1][names.WEIGHTS_BYTES] == sum(tensor.nbytes for tensor in own.values())


def test_mixed_precision_computes_like_the_runners_and_steps_like_float32(toy_policy_dir, toy_groups):
    bfloat16 = {"dtype": "bfloat16"}
    shards = sharded(toy_policy_dir, model=bfloat16, learners={"master_dtype": "float32"}, lr=1e-3)
    runner = make_learner(config_of(toy_policy_dir, model=bfloat16))
    batch = shards._learner_connector(
        rl_module=shards.module, batch={}, episodes=episodes_of(toy_groups[:1]), shared_data={}, metrics=None
    )
    with torch.no_grad():
        outputs = [learner.module.forward_train(batch)[DEFAULT_MODULE_ID] for learner in (shards, runner)]
    assert torch.equal(outputs[0]["all_log_probs"], outputs[1]["all_log_probs"])  # bit for bit

    def masters():
        state = shards.module[DEFAULT_MODULE_ID].weights()
        return {name: tensor.full_tensor().clone() for name, tensor in state.items()}

    before = masters()
    update(shards, toy_groups[:1])
    after, sent = masters(), published(shards)
    num_fine_steps = 0
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(sent[name], tensor.bfloat16())
        step = (tensor - before[name]).abs()
        # What a bfloat16 weight would have lost: steps below half of its last place.
        num_fine_steps += int(((step > 0) & (step < before[name].abs() * 2**-9)).sum())
    assert num_fine_steps > 1000


def test_a_checkpoint_of_shards_continues_whole(toy_policy_dir, toy_groups, tmp_path):
    shards = sharded(toy_policy_dir)
    update(shards, toy_groups[:2])
    shards.save_shards(tmp_path / "shards")
    assert {name.split(".")[-1] for name in shards.shards_written(wait=True)} == {"distcp", "metadata"}
    # What RLlib's learner group does with its first learner.
    shards.save_to_path(tmp_path / "learner", state=shards.get_state())
    assert not (tmp_path / "learner" / "rl_module").exists()  # not a second time
    plain = make_learner(config_of(toy_policy_dir))
    plain.restore_from_path(tmp_path / "learner")
    plain.load_shards(tmp_path / "shards")
    assert_close(weights_of(plain), published(shards), atol=0, rtol=0)
    for learner in (shards, plain):
        update(learner, toy_groups[2:4])
    assert_close(published(shards), weights_of(plain), atol=1e-6, rtol=0)


def test_a_checkpoint_of_the_whole_continues_in_shards(toy_policy_dir, toy_groups, tmp_path):
    plain = make_learner(config_of(toy_policy_dir))
    update(plain, toy_groups[:2])
    plain.save_to_path(tmp_path / "learner")
    shards = sharded(toy_policy_dir)
    shards.restore_from_path(tmp_path / "learner")
    assert shards._weights_seq_no == 1
    assert_close(published(shards), weights_of(plain), atol=0, rtol=0)
    for learner in (shards, plain):
        update(learner, toy_groups[2:4])
    assert_close(published(shards), weights_of(plain), atol=1e-6, rtol=0)


def test_training_on_does_not_change_what_is_being_written(toy_policy_dir, toy_groups, tmp_path, monkeypatch):
    release = threading.Event()
    save = dcp.save
    monkeypatch.setattr(learner_shards.dcp, "save", lambda *args, **kw: (release.wait(60), save(*args, **kw)))
    shards = sharded(toy_policy_dir, learners={"cpu_offload": True})
    before = published(shards)
    shards.save_shards(tmp_path / "shards")
    assert shards.shards_written(wait=False) is None
    update(shards, toy_groups[:1])
    release.set()
    shards.shards_written(wait=True)
    written = {name: torch.empty_like(tensor) for name, tensor in before.items()}
    load_weights(tmp_path / "shards", written)
    assert_close(written, before, atol=0, rtol=0)


def test_a_write_that_fails_is_reported_until_the_next_begins(toy_policy_dir, tmp_path):
    """Other learners may still be writing when this one is first asked; then all are asked once more."""
    shards = sharded(toy_policy_dir)
    (tmp_path / "file").write_text("in the way")
    shards.save_shards(tmp_path / "file" / "shards")
    for wait in (True, False):
        with pytest.raises(TrainingCheckpointError, match="NotADirectoryError"):
            shards.shards_written(wait=wait)
    shards.save_shards(tmp_path / "shards")
    assert shards.shards_written(wait=True)


def test_shards_of_another_model_are_refused(toy_policy_dir, tmp_path):
    shards = sharded(toy_policy_dir)
    shards.save_shards(tmp_path / "shards")
    shards.shards_written(wait=True)
    other = make_learner(config_of(toy_policy_dir, model={"lora": {"rank": 4}}))
    with pytest.raises(TrainingCheckpointError, match="lora_A"):
        other.load_shards(tmp_path / "shards")


SCHEDULERS = {
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.5),
    # The constructors of these change the rate.
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=5),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (2 + step)),
}


def scheduled(policy_dir, scheduler, **kwargs):
    config = config_of(policy_dir, **kwargs)
    config._torch_lr_scheduler_classes = [SCHEDULERS[scheduler]]
    return make_learner(config)


def settings_of(learner):
    (group,) = learner.get_optimizer(DEFAULT_MODULE_ID).param_groups
    return group


@pytest.mark.parametrize("learners", [{}, {"num_learners": 1, "parallelism": "fsdp2"}], ids=["whole", "sharded"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_and_random_state_are_restored(toy_policy_dir, toy_groups, scheduler, learners):
    first, second = (scheduled(toy_policy_dir, scheduler, learners=learners) for _ in range(2))
    update(first, toy_groups[:1])
    state = first.get_state()
    expected = torch.rand(3)
    second.set_state(state)
    assert torch.equal(torch.rand(3), expected)
    assert settings_of(first)["lr"] == settings_of(second)["lr"] < 1
    for learner in (first, second):
        update(learner, toy_groups[:1])
    assert settings_of(first)["lr"] == settings_of(second)["lr"]


def test_a_learner_with_schedulers_takes_a_state_from_before_the_first_update(toy_policy_dir, toy_groups):
    learner = scheduled(toy_policy_dir, "linear")
    initial = learner.get_state()
    rates = []
    for _ in range(2):
        update(learner, toy_groups[:1])
        rates.append(settings_of(learner)["lr"])
        learner.set_state(initial)
    assert rates[0] == rates[1]


def test_moments_in_bfloat16_are_kept_exactly(toy_policy_dir, toy_groups):
    first, second = (make_learner(config_of(toy_policy_dir, model={"dtype": "bfloat16"})) for _ in range(2))
    update(first, toy_groups[:1])
    second.set_state(first.get_state())
    expected, own = (learner.get_optimizer(DEFAULT_MODULE_ID).state_dict()["state"] for learner in (first, second))
    assert expected[0]["exp_avg"].dtype == torch.bfloat16
    for index, moments in expected.items():
        for name, tensor in moments.items():
            assert own[index][name].dtype == tensor.dtype
            assert torch.equal(own[index][name], tensor)
    for learner in (first, second):
        update(learner, toy_groups[:1])
    assert_close(weights_of(second), weights_of(first), atol=0, rtol=0)


@pytest.mark.parametrize("learners", [{}, {"num_learners": 1, "parallelism": "fsdp2"}], ids=["whole", "sharded"])
def test_a_loaded_state_does_not_change_settings(toy_policy_dir, toy_groups, learners):
    """Population-based training goes on with other settings than those of the checkpoint."""
    first = make_learner(config_of(toy_policy_dir))
    update(first, toy_groups[:1])
    changed = {"lr": 0.5, "weight_decay": 0.3, "adam_betas": (0.5, 0.6), "adam_epsilon": 1e-3}
    second = make_learner(config_of(toy_policy_dir, learners=learners, **changed))
    second.set_state(first.get_state())
    group = settings_of(second)
    assert [group[name] for name in ("lr", "weight_decay", "betas", "eps")] == [0.5, 0.3, (0.5, 0.6), 1e-3]
    assert len(second.get_optimizer(DEFAULT_MODULE_ID).state) > 0
