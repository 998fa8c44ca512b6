"""`rllib plan` against counts made here and against what really happens."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import envs
from policies.openvla_oft import OpenVLAOFTConfig, OpenVLAOFTPolicy
from policies.openvla_oft.modeling import OpenVLAOFT
from rllib_vla.cli import plan_memory, plan_model, plan_time
from rllib_vla.cli.experiment_file import parse_experiments
from rllib_vla.cli.fused_operations import fused_operations
from rllib_vla.cli.main import app
from rllib_vla.cli.object_store import check_object_store
from rllib_vla.cli.plan import make_plan
from rllib_vla.cli.problems import InputError
from rllib_vla.cli.yaml_lines import parse_yaml
from tests.rllib_vla.toy import make_runner, requests, toy_config

TEXT = """\
toy:
  run: GRPO
  env: tests.toy_suite:SUITE
  stop: {{training_iteration: 10}}
  checkpoint_config: {{checkpoint_frequency: 2, num_to_keep: 3}}
  config:
    rl_module: {{model_config: {{model_path: {path}{model}}}}}
    env_runners: {{num_simulators_per_env_runner: 2, num_envs_per_simulator: 4{runners}}}
    training: {{group_size: 4, num_groups_per_train_batch: 4, minibatch_size: 8, micro_batch_size: 4}}
    {more}
"""


@pytest.fixture(scope="module")
def planned(toy_policy_dir):
    """Plans of the toy experiment with some settings; each is made once."""

    @functools.cache
    def planned(*, model="", runners="", more=""):
        text = TEXT.format(path=toy_policy_dir, model=model, runners=runners, more=more)
        (experiment,) = parse_experiments(parse_yaml(text, source="f.yaml"))
        return make_plan(experiment)

    return planned


def item(budget, name):
    return next(i for i in budget.items if i.name == name)


def budget(budgets, name):
    return next(b for b in budgets if b.name == name)


# --- counts -----------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_real_model(planned, toy_policy_dir):
    real = OpenVLAOFTPolicy.from_pretrained(toy_policy_dir).model
    plan = planned()
    assert plan.size.num_parameters == sum(p.numel() for p in real.parameters())
    assert plan.size.weight_bytes == sum(p.numel() * p.element_size() for p in real.parameters())
    # What gets a gradient in a real backward pass, and nothing else, counts as trained.
    inputs = plan_model.make_inputs(plan.model_config, 1, 8)
    real.train()
    plan_model.training_loss(real(**{k: torch.ones(v.shape, dtype=v.dtype) for k, v in inputs.items()})).backward()
    assert plan.size.num_trained == sum(p.numel() for p in real.parameters() if p.grad is not None)


def test_adapters_are_counted_exactly(planned):
    plan = planned(model=", dtype: bfloat16, lora: {rank: 4}")
    whole = planned(model=", dtype: bfloat16")
    assert 0 < plan.size.num_trained == plan.size.num_sent < plan.size.num_parameters
    assert plan.size.weight_bytes == whole.size.weight_bytes + 4 * plan.size.num_trained
    assert plan_memory.sent_bytes(plan.config, plan.size) == 4 * plan.size.num_trained


def test_the_released_model_has_the_published_size():
    """7.54 B parameters: Llama-2-7B (6.74), DINOv2-L (0.30), SigLIP-SO400M (0.43), projector (0.07)."""
    model = plan_model.build_model(OpenVLAOFTConfig.preset("7b"), {"dtype": "bfloat16", "lora": {"rank": 32}})
    size = plan_model.measure_size(model)
    assert size.num_parameters - size.num_trained == pytest.approx(7.54e9, rel=0.002)
    assert size.weight_bytes == pytest.approx(2 * 7.54e9 + 4 * size.num_trained, rel=0.002)


# --- activations --------------------------------------------------------------------------------------------------


def small_model(num_hidden_layers=2):
    config = dataclasses.replace(OpenVLAOFTConfig.preset("tiny"), num_hidden_layers=num_hidden_layers)
    return config, plan_model.build_model(config, {})


def test_memory_of_a_known_network():
    """A chain of two matrix products, by hand: forward keeps x1, backward makes two gradients of its size."""
    weight = torch.empty(64, 64, device="meta", requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    x = torch.empty(128, 64, device="meta")
    with plan_model._LiveMemory() as memory:
        hidden = x @ weight
        assert memory.peak == 128 * 64 * 4
        out = hidden @ weight
        assert memory.peak == 2 * 128 * 64 * 4
        del out
        again = hidden @ weight
        del again
    assert memory.peak == 2 * 128 * 64 * 4  # what was freed is counted as free


def test_memory_and_arithmetic_are_linear_in_the_batch():
    _, model = small_model()
    one, four = (plan_model.measure_training(model, rows, 20, recompute=False) for rows in (1, 4))
    assert four.flops == pytest.approx(4 * one.flops, rel=0.01)
    assert 3 < four.peak_bytes / one.peak_bytes <= 4.01


def test_frozen_parts_cost_no_gradient_no_moments_and_no_backward_pass():
    config = OpenVLAOFTConfig.preset("tiny")
    whole, frozen = (plan_model.build_model(config, {"freeze": freeze}) for freeze in (None, ["vision_backbone"]))
    vision = sum(p.numel() for p in whole.vision_backbone.parameters() if p.requires_grad)
    sizes = [plan_model.measure_size(model) for model in (whole, frozen)]
    assert sizes[0].num_trained - sizes[1].num_trained == vision > 0
    assert sizes[0].num_sent == sizes[1].num_sent
    costs = [plan_model.measure_training(model, 4, 20, recompute=False) for model in (whole, frozen)]
    assert costs[1].flops < 0.9 * costs[0].flops
    assert costs[1].peak_bytes < 0.8 * costs[0].peak_bytes


def test_norms_make_no_float32_copy_of_bfloat16():
    """As on GPUs: beside its result, a norm keeps a float32 factor for each row."""
    x = torch.empty(128, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    with fused_operations(), plan_model._LiveMemory() as memory:
        y = torch.nn.functional.rms_norm(x, (64,), eps=1e-6)
        assert memory.peak == 128 * 64 * 2 + 128 * 4
        y.sum().backward()
    assert memory.peak < 3 * 128 * 64 * 2
    assert x.grad.shape == x.shape


def test_decoding_token_by_token_keeps_keys_and_values():
    config = dataclasses.replace(
        OpenVLAOFTConfig.preset("tiny"), decoding="autoregressive", chunk_size=1, action_slot_embeddings=False
    )
    model = plan_model.build_model(config, {})
    rows, prompt = 16, 20
    sampling, training = (
        measure(model, rows, prompt, **kwargs)
        for measure, kwargs in ((plan_model.measure_sampling, {}), (plan_model.measure_training, {"recompute": False}))
    )
    length = config.num_visual_tokens + prompt + config.num_action_tokens - 1
    cache = 2 * config.num_hidden_layers * config.hidden_size * length * 4 * rows
    assert cache < sampling.peak_bytes < training.peak_bytes
    assert 2.5 < training.flops / sampling.flops < 3.5


def test_backward_costs_twice_the_forward_pass():
    _, model = small_model()
    forward = plan_model.measure_sampling(model, 2, 20).flops
    both = plan_model.measure_training(model, 2, 20, recompute=False).flops
    assert 2.5 < both / forward <= 3.05  # frozen inputs and idle parts need no gradient


def test_recomputation_trades_arithmetic_for_memory():
    _, model = small_model(num_hidden_layers=6)
    plain, recomputed = (plan_model.measure_training(model, 2, 20, recompute=r) for r in (False, True))
    assert recomputed.peak_bytes < 0.6 * plain.peak_bytes
    assert 1.2 < recomputed.flops / plain.flops < 1.4
    # The model is as it was.
    assert plan_model.measure_training(model, 2, 20, recompute=False) == plain


def test_sampling_needs_less_than_training():
    _, model = small_model()
    sampling = plan_model.measure_sampling(model, 8, 20)
    assert sampling.peak_bytes < 0.5 * plan_model.measure_training(model, 8, 20, recompute=False).peak_bytes


# --- episodes -----------------------------------------------------------------------------------------------------


def test_episodes_take_what_is_planned(planned, toy_policy_dir):
    plan = planned()
    runner = make_runner(toy_config(toy_policy_dir, dynamic_sampling=False))
    try:
        groups = runner.sample_groups(requests(4))
    finally:
        runner.stop()
    episodes = [episode for group in groups for episode in group.episodes]

    def num_bytes(value):
        if isinstance(value, dict):
            return sum(num_bytes(v) for v in value.values())
        return np.asarray(value).nbytes

    arrays = 0
    for episode in episodes:
        observations = episode.get_observations()
        arrays += sum(num_bytes(observation) for observation in observations)
        arrays += num_bytes(np.asarray(episode.get_actions()))
        arrays += sum(num_bytes(np.asarray(values.data)) for values in episode.extra_model_outputs.values())
    rows = sum(len(episode) + 1 for episode in episodes)
    predicted = rows * (plan.load.row_bytes - plan_memory.ROW_OVERHEAD_BYTES)
    assert predicted == pytest.approx(arrays, rel=0.05)
    assert max(len(episode) for episode in episodes) <= plan.load.rows_per_trajectory


# --- budgets ------------------------------------------------------------------------------------------------------


def test_one_process_holds_everything(planned):
    plan = planned()
    assert plan.gpus == []
    main = budget(plan.processes, "main process")
    weights, trained = plan.size.weight_bytes, plan.size.trained_bytes
    assert item(main, "weights").bytes == weights
    assert item(main, "gradients").bytes == trained
    assert item(main, "AdamW's moments").bytes == 2 * trained
    assert not any(i.name == "runner's weights" for i in main.items)
    assert main.peak == sum(i.bytes for i in main.items if i.phase == "always") + max(
        sum(i.bytes for i in main.items if i.phase == phase) for phase in ("sample", "update")
    )
    assert budget(plan.processes, "simulator").count == 2
    assert sum(i.bytes for i in plan.checkpoint[:2]) == weights + 2 * trained
    assert plan.num_checkpoints == 3
    assert plan.disk_bytes == 4 * sum(i.bytes for i in plan.checkpoint)


def test_a_shared_gpu_holds_both_and_offloading_makes_room(planned):
    gpus = "learners: {num_learners: 2, num_gpus_per_learner: 1}\n    resources: {offload_idle_model: %s}"
    both, in_turn = (
        planned(runners=", num_env_runners: 2", more=gpus % offload).gpus[0] for offload in ("false", "true")
    )
    assert both.name == "GPU of learner and runner"
    assert both.count == 2
    assert in_turn.peak < both.peak


def test_separate_gpus(planned):
    more = "learners: {num_learners: 1, num_gpus_per_learner: 1}\n    resources: {placement: disaggregated}"
    plan = planned(runners=", num_env_runners: 3, num_gpus_per_env_runner: 1", more=more)
    assert [(b.name, b.count) for b in plan.gpus] == [("GPU of a learner", 1), ("GPU of a runner", 3)]
    assert item(plan.gpus[1], "runner's weights").bytes == plan.size.weight_bytes


def test_shards_divide_what_copies_repeat(planned):
    plan = planned(more="learners: {num_learners: 4}")
    copies = dataclasses.replace(plan.learning, strategy="ddp", num_learners=4)
    shards = dataclasses.replace(copies, strategy="fsdp2")
    of = {
        how.strategy: {
            i.name: i.bytes for i in plan_memory.learner_items(plan.config, plan.size, how, plan.training, on_gpu=True)
        }
        for how in (copies, shards)
    }
    for name in ("weights", "gradients", "AdamW's moments"):
        assert of["fsdp2"][name] == of["ddp"][name] // 4
    assert of["ddp"]["DDP's buckets"] == of["ddp"]["gradients"]


@pytest.mark.parametrize("cpu_offload", ["false", "true"])
def test_adapters_are_float32_beside_frozen_shards(planned, cpu_offload):
    more = f"learners: {{num_learners: 2, num_gpus_per_learner: 1, parallelism: fsdp2, cpu_offload: {cpu_offload}}}"
    plan = planned(model=", dtype: bfloat16, lora: {rank: 4}", runners=", num_env_runners: 2", more=more)
    adapters = 4 * plan.size.num_trained
    frozen = 2 * (plan.size.num_parameters - plan.size.num_trained)
    (gpu,), learner = plan.gpus, budget(plan.processes, "learner")
    if cpu_offload == "true":
        assert item(learner, "weights, gradients, moments").bytes == (frozen + 4 * adapters) // 2
        assert item(gpu, "weights").bytes == 0
    else:
        assert item(gpu, "weights").bytes == (frozen + adapters) // 2
        assert item(gpu, "gradients").bytes == adapters // 2
        assert item(gpu, "AdamW's moments").bytes == 2 * adapters // 2


def test_master_weights_are_counted_in_their_type(planned):
    more = "learners: {num_learners: 2, num_gpus_per_learner: 1, master_dtype: float32}"
    model = ", dtype: bfloat16, freeze: [vision_backbone]"
    plan = planned(model=model, runners=", num_env_runners: 2", more=more)
    assert item(plan.gpus[0], "weights").bytes == 4 * plan.size.num_parameters // 2
    assert item(plan.gpus[0], "gradients").bytes == 4 * plan.size.num_trained // 2


def test_one_learners_moments_are_float32_on_disk(planned):
    plan = planned(model=", dtype: bfloat16")
    weights, moments, *_ = (i.bytes for i in plan.checkpoint)
    assert (weights, moments) == (2 * plan.size.num_parameters, 8 * plan.size.num_trained)


# --- object store ---------------------------------------------------------------------------------------------------


def test_the_object_store_is_compared_before_the_start(experiment_of, toy_policy_dir, planned):
    experiment = experiment_of(TEXT.format(path=toy_policy_dir, model="", runners=", num_env_runners: 1", more=""))
    plan = planned(runners=", num_env_runners: 1")
    need = budget(plan.processes, "object store (per cluster)").peak
    assert check_object_store(experiment, need + 1) is None
    assert "--ray-object-store-memory" in check_object_store(experiment, 0.9 * need)
    largest = max(plan.load.group_bytes, plan_memory.sent_bytes(plan.config, plan.size))
    with pytest.raises(InputError, match="alone takes up to"):
        check_object_store(experiment, 0.9 * largest)


# --- command ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_plan(write, toy_policy_dir):
    path = write("toy.yaml", TEXT.format(path=toy_policy_dir, model="", runners="", more=""))
    result = CliRunner().invoke(app, ["plan", path, "--tflops", "0.05", "--steps-per-second", "1000"])
    assert result.exit_code == 0, result.output
    for text in ("M parameters", "peak, each", "AdamW's moments", "per checkpoint", "An iteration of one round"):
        assert text in result.output
    assert "simulation unknown" not in result.output


def test_seconds_without_rates_are_typical_ones(planned, write, toy_policy_dir):
    path = write("toy.yaml", TEXT.format(path=toy_policy_dir, model="", runners="", more=""))
    result = CliRunner().invoke(app, ["plan", path])
    assert "simulation unknown (give --steps-per-second)" in result.output
    assert "per CPU process" in result.output
    assert plan_time.estimate(planned()).total == pytest.approx(
        (planned().sampling_flops + planned().update_flops) / (plan_time.CPU_TFLOPS * 1e12)
    )
    gpus = "learners: {num_learners: 2, num_gpus_per_learner: 1}"
    with_gpus = planned(runners=", num_env_runners: 2", more=gpus)
    seconds = plan_time.estimate(with_gpus, steps_per_second=100)
    assert seconds.update == pytest.approx(with_gpus.update_flops / 2 / (plan_time.GPU_TFLOPS * 1e12))
    assert seconds.simulation == with_gpus.model_calls * 8 / 4 / 100  # chunks of 8, two simulators for each runner
    assert "typical of an H200" in seconds.basis


def test_typical_rates_are_those_of_suites_that_exist():
    assert all(envs.get_suite(name) for name in plan_time.STEPS_PER_SECOND)


def test_bad_files_are_refused_as_by_train(write, toy_policy_dir):
    path = write("toy.yaml", TEXT.format(path=toy_policy_dir, model="", runners="", more="training2: {}"))
    results = [CliRunner().invoke(app, command) for command in (["plan", path], ["train", "file", path, "--dry-run"])]
    assert [r.exit_code for r in results] == [2, 2]


def test_models_that_are_elsewhere_need_a_preset(planned, experiment_of):
    text = TEXT.format(path="somebody/some-model", model="", runners="", more="")
    with pytest.raises(InputError, match="--preset"):
        make_plan(experiment_of(text))
    assert make_plan(experiment_of(text), "tiny").size.num_parameters == sum(
        p.numel() for p in OpenVLAOFT(OpenVLAOFTConfig.preset("tiny")).parameters()
    )
    with pytest.raises(InputError, match="unknown preset"):
        make_plan(experiment_of(text), "8b")


def test_other_algorithms_have_no_plan(experiment_of):
    text = "x: {run: PPO, env: CartPole-v1, config: {num_env_runners: 0}}"
    with pytest.raises(InputError, match="GRPO only"):
        make_plan(experiment_of(text))
