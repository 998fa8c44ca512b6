import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_vla.algorithms.grpo.default_grpo_rl_module import ALL_LOG_PROBS
from rllib_vla.columns import SAMPLING_UNIFORMS
from rllib_vla.connectors.env_to_module.add_sampling_noise import sampling_uniforms
from tests.rllib_vla.toy import toy_config


@pytest.fixture(scope="module")
def make_module(toy_policy_dir):
    def make(**model_config):
        config = toy_config(toy_policy_dir, temperature=model_config.pop("temperature", 1.3))
        config.rl_module(model_config={"model_path": toy_policy_dir} | model_config)
        config.validate()
        return config.get_rl_module_spec(spaces={DEFAULT_MODULE_ID: config.get_environment_spaces()}).build()

    return make


@pytest.fixture
def batch(make_module):
    processor = make_module().policy.processor
    frames = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), dtype=np.uint8)
    observations = processor(frames, ["go to the left target", "go to the right target", "go to the left target"])
    noise = [sampling_uniforms(seed=0, group_id=0, member=m, call=0, num_tokens=56) for m in range(3)]
    return {
        Columns.OBS: {key: torch.from_numpy(value) for key, value in observations.items()},
        SAMPLING_UNIFORMS: torch.from_numpy(np.stack(noise)),
    }


def test_sampler_and_learner_agree(make_module, batch):
    module = make_module()
    sampled = module.forward_exploration(batch)
    trained = module.forward_train(batch)[ALL_LOG_PROBS]
    assert sampled[Columns.ACTIONS].shape == sampled[Columns.ACTION_LOGP].shape == (3, 56)
    assert trained.shape == (3, 56, 256)
    assert trained.requires_grad
    logp = trained.gather(-1, sampled[Columns.ACTIONS].long()[..., None])[..., 0]
    assert torch.allclose(logp, sampled[Columns.ACTION_LOGP], atol=1e-5)
    assert torch.allclose(trained.exp().sum(-1), torch.ones(3, 56), atol=1e-5)


def test_temperature_of_the_algorithm_divides_the_logits(make_module, batch):
    cold, hot = (make_module(temperature=t).forward_train(batch)[ALL_LOG_PROBS] for t in (0.5, 2.0))
    expected = torch.log_softmax(4 * hot, dim=-1)
    assert torch.allclose(cold, expected, atol=1e-4)


def test_inference_is_greedy(make_module, batch):
    module = make_module()
    likeliest = module.forward_train(batch)[ALL_LOG_PROBS].argmax(-1)
    assert torch.equal(module.forward_inference(batch)[Columns.ACTIONS], likeliest)
    assert not torch.equal(module.forward_exploration(batch)[Columns.ACTIONS], likeliest)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_round_trip(make_module, dtype):
    source, target = make_module(dtype=dtype), make_module(dtype=dtype)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter))
    state = source.get_state()
    for array in state.values():
        array.setflags(write=False)  # as they arrive from Ray's object store
    target.set_state(state)
    for a, b in zip(source.model.state_dict().values(), target.model.state_dict().values(), strict=True):
        assert a.dtype == b.dtype == getattr(torch, dtype)
        assert torch.equal(a, b)


def test_state_is_a_copy(make_module):
    module = make_module()
    state = module.get_state()
    before = {k: v.copy() for k, v in state.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert all(np.array_equal(before[k], state[k]) for k in state)


def test_foreign_weights_are_refused(make_module):
    module = make_module()
    state = module.get_state()
    state["unknown.weight"] = np.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match=r"unknown\.weight"):
        module.set_state(state)


def test_lora_state_holds_adapters_only(make_module, batch):
    source, target = (make_module(lora={"rank": 4, "alpha": 8}, dtype="bfloat16") for _ in range(2))
    state = source.get_state()
    assert state
    assert all(name.endswith((".lora_A", ".lora_B")) for name in state)
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    assert not torch.equal(source.action_logits(batch), target.action_logits(batch))
    target.set_state(source.get_state())
    assert torch.equal(source.action_logits(batch), target.action_logits(batch))


def test_lora_state_does_not_fit_a_module_without(make_module):
    plain, adapted = make_module(), make_module(lora={"rank": 4})
    for module, other in ((plain, adapted), (adapted, plain)):
        with pytest.raises(RuntimeError, match="another `lora` setting"):
            module.set_state(other.get_state())
