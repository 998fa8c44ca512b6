"""What `rllib plan` says of memory and time, against what a process really takes.

Real models with random weights on the CPU, float32: resident memory after the first optimizer step (weights, gradients,
moments), and the peak of a micro-batch above it (activations and what comes and goes beside them). A ratio above 100 %
means that the plan was too low. The C library's allocator is told to keep no freed blocks; what it keeps otherwise
comes on top and is no property of the model. Seconds are CPU time of one thread; they are planned with the typical rate
of a core.
"""

import time
from collections.abc import Callable

from benchmarks.measure import Figure, share_of
from benchmarks.memory import map_large_blocks, peak_megabytes, resident_megabytes

PROMPT_LENGTH = 32
_MEGABYTE = 2**20


def run(quick: bool) -> list[Figure]:
    """Returns measured megabytes beside planned ones."""
    map_large_blocks()
    figures = []
    for preset, rows in [("tiny", 8)] if quick else [("tiny", 64), ("small", 1)]:
        figures += _preset(preset, rows)
    return figures


def _preset(preset: str, rows: int) -> list[Figure]:
    import torch

    from policies.openvla_oft import OpenVLAOFTConfig
    from policies.openvla_oft.modeling import OpenVLAOFT
    from rllib_vla.cli import plan_model, plan_time

    config = OpenVLAOFTConfig.preset(preset)
    meta = plan_model.build_model(config, {})
    size = plan_model.measure_size(meta)
    training = plan_model.measure_training(meta, rows, PROMPT_LENGTH, recompute=False)
    sampling = plan_model.measure_sampling(meta, rows, PROMPT_LENGTH)

    torch.manual_seed(0)
    before = resident_megabytes()
    model = OpenVLAOFT(config)
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = {
        name: torch.ones(tensor.shape, dtype=tensor.dtype)
        for name, tensor in plan_model.make_inputs(config, rows, PROMPT_LENGTH).items()
    }

    def update() -> None:
        plan_model.training_loss(model(**inputs)).backward()

    def sample() -> None:
        with torch.no_grad():
            model(**inputs)

    update()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    state = resident_megabytes() - before
    planned_state = size.weight_bytes + 3 * size.trained_bytes
    figures = [share_of(f"{preset}: weights, gradients, moments", state, "planned", planned_state / _MEGABYTE, "MB")]
    for what, run_once, planned in (("update of", update, training), ("sampling", sample, sampling)):
        name, seconds = f"{preset}: {what} {rows} rows", []
        peak = peak_megabytes(_timed(run_once, seconds))
        figures.append(share_of(name, peak, "planned", planned.peak_bytes / _MEGABYTE, "MB"))
        figures.append(share_of(name, min(seconds), "planned", planned.flops / plan_time.CPU_TFLOPS / 1e12, "s"))
    return figures


def _timed(call: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """Adds the CPU time of each call to `seconds`: with one thread, what it takes on a core of its own."""

    def timed() -> None:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)

    return timed
