"""The 7B policy on one GPU: sampling calls and updates, time and memory beside what `rllib plan` says.

Random weights, bfloat16. A model call has 256 patches, 32 prompt tokens and 56 action tokens. Sampling is timed against
one call per member; sampling and updates against the straightforward implementation of the same network
(`straightforward.py`). An update is the forward and backward pass of a micro-batch, without the optimizer's step.
Memory is the peak above weights and gradients; rates are counted arithmetic over measured time.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import straightforward
from benchmarks.measure import Figure, NotAvailableError, Variant, compare, share_of
from benchmarks.midsize import Batch, sample_fast, sample_straightforward
from policies.openvla_oft import OpenVLAOFT, OpenVLAOFTConfig
from rllib_vla.cli import plan_model, plan_time
from rllib_vla.distributed.parallelize import Parallelism, parallelize
from rllib_vla.rl_modules.openvla_oft_rl_module import choose_trained_parts

PROMPT_LENGTH = 32
SAMPLING_ROWS = (4, 16, 64)
MICRO_BATCH_ROWS = 8
_BFLOAT16 = {"dtype": "bfloat16"}
LORA = {"lora": {"rank": 32, "alpha": 32}}
# Trained parts, activations recomputed.
UPDATES: dict[str, tuple[dict[str, Any], bool]] = {
    "all parameters": ({}, False),
    "all parameters, recomputed": ({}, True),
    "LoRA r 32": (LORA, False),
    "LoRA r 32, recomputed": (LORA, True),
}


def run(quick: bool) -> list[Figure]:
    """Returns time, memory and rates.

    Raises:
        NotAvailableError: Without a GPU that PyTorch can use.
    """
    if not torch.cuda.is_available():
        raise NotAvailableError("PyTorch sees no GPU.")
    preset, rounds = ("small", 1) if quick else ("7b", 5)
    torch.manual_seed(0)
    model = make_model(OpenVLAOFTConfig.preset(preset))
    return _sampling(model, rounds) + _updates(model, rounds)


def make_model(config: OpenVLAOFTConfig) -> OpenVLAOFT:
    """Returns a model with random weights in bfloat16 on the GPU."""
    with torch.device("cuda"):
        return OpenVLAOFT(config).to(torch.bfloat16)


def make_batch(config: OpenVLAOFTConfig, num_rows: int) -> Batch:
    """Returns random pictures and prompts without padding, on the GPU."""
    shape = (num_rows, config.num_images, config.image_size, config.image_size, 3)
    ids = torch.randint(1, config.first_action_id, (num_rows, PROMPT_LENGTH), device="cuda")
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    return images, ids, torch.ones_like(ids, dtype=torch.bool)


def update(model: OpenVLAOFT, batch: Batch) -> None:
    """Adds the gradients of a micro-batch to those of `model`."""
    plan_model.training_loss(model(*batch)).backward()


def _sampling(model: OpenVLAOFT, rounds: int) -> list[Figure]:
    num_rows = max(SAMPLING_ROWS)
    batch = make_batch(model.config, num_rows)
    plain = straightforward.make_straightforward(_with_same_weights(model))

    def in_calls_of(call: Callable, model: OpenVLAOFT, size: int) -> Callable[[], None]:
        parts = list(zip(*(column.split(size) for column in batch), strict=True))
        return _finished(lambda: [call(model, part) for part in parts])

    figures = compare(
        [
            Variant("a call per member", in_calls_of(sample_fast, model, 1)),
            *(Variant(f"sampling, {n} at a time", in_calls_of(sample_fast, model, n)) for n in SAMPLING_ROWS),
        ],
        rounds=rounds,
        amount=num_rows,
    )
    in_one = figures[-1]
    names = f"straightforward sampling, {num_rows} at a time", in_one.what
    figures += compare(
        [
            Variant(names[0], in_calls_of(sample_straightforward, plain, num_rows)),
            Variant(names[1], in_calls_of(sample_fast, model, num_rows)),
        ],
        rounds=rounds,
        amount=num_rows,
    )
    memory = [_peak_megabytes(lambda: sample_straightforward(plain, batch))]
    memory.append(_peak_megabytes(lambda: sample_fast(model, batch)))
    figures.append(share_of(names[1], memory[1], names[0], memory[0], "MB"))
    planned = plan_model.measure_sampling(plan_model.build_model(model.config, _BFLOAT16), num_rows, PROMPT_LENGTH)
    return figures + _beside_plan(names[1], planned, memory[1], in_one.value, num_rows)


def _updates(model: OpenVLAOFT, rounds: int) -> list[Figure]:
    batch = make_batch(model.config, MICRO_BATCH_ROWS)

    def updating(parts: dict[str, Any], *, recompute: bool, plain: bool = False) -> Callable[[], None]:
        trained = _with_same_weights(model)
        choose_trained_parts(trained, parts)
        if plain:
            straightforward.make_straightforward(trained)
        parallelize(trained, Parallelism(activation_checkpointing=recompute))
        call = _finished(lambda: update(trained, batch))
        call()  # leaves the gradients, which the plan counts elsewhere
        return call

    figures = []
    for name, (parts, recompute) in UPDATES.items():
        what = f"update, {name}"
        call = updating(parts, recompute=recompute)
        plain = updating(parts, recompute=recompute, plain=True)
        figures += compare(
            [Variant("straightforward", plain), Variant(what, call)], rounds=rounds, amount=MICRO_BATCH_ROWS
        )
        milliseconds = figures[-1].value
        memory = [_peak_megabytes(plain), _peak_megabytes(call)]
        figures.append(share_of(what, memory[1], "straightforward", memory[0], "MB"))
        meta = plan_model.build_model(model.config, {**_BFLOAT16, **parts})
        planned = plan_model.measure_training(meta, MICRO_BATCH_ROWS, PROMPT_LENGTH, recompute=recompute)
        figures += _beside_plan(what, planned, memory[1], milliseconds, MICRO_BATCH_ROWS)
    return figures


def _with_same_weights(model: OpenVLAOFT) -> OpenVLAOFT:
    """A second model that shares the weights' memory, not their gradients."""
    with torch.device("meta"):
        other = OpenVLAOFT(model.config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other


def _finished(call: Callable[[], object]) -> Callable[[], None]:
    """Waits until the GPU has done what `call` asked for."""

    def finished_call() -> None:
        call()
        torch.cuda.synchronize()

    return finished_call


def _peak_megabytes(call: Callable[[], object]) -> float:
    """By how much the second of two runs of `call` raises the GPU's allocated memory at its peak."""
    call()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _beside_plan(
    what: str, planned: plan_model.PassCost, megabytes: float, milliseconds: float, num_rows: int
) -> list[Figure]:
    """Peak memory and sustained arithmetic of `num_rows` rows that took `milliseconds` each."""
    tflops = planned.flops / num_rows / milliseconds / 1e9
    return [
        share_of(f"{what}, {num_rows} rows", megabytes, "planned", planned.peak_bytes / 2**20, "MB"),
        share_of(what, tflops, "the plan's rate", plan_time.GPU_TFLOPS, "TFLOP/s"),
    ]
