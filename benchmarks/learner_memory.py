"""What a learner keeps of one model call for the backward pass: 7B in bfloat16, counted on the meta device.

Nothing is computed: tensors without values run through the real model, and the bytes that autograd saves are added up,
each memory block once, parameters left out. Attention and norms count as the fused kernels of GPUs: inputs, output
and row statistics are kept. One model call is a row of one image (256 patches), a prompt of 30 tokens and 56
action tokens. With activation checkpointing a block's own share is needed again while that block is recomputed.
"""

import contextlib
from collections.abc import Iterator

import torch

from benchmarks.measure import Figure, share_of
from policies.openvla_oft import LoRAConfig, OpenVLAOFT, OpenVLAOFTConfig, add_lora
from rllib_vla.cli.fused_operations import fused_operations
from rllib_vla.distributed.parallelize import Parallelism, parallelize

PROMPT_LENGTH = 30
_MEGABYTE = 2**20


def run(quick: bool) -> list[Figure]:
    """Returns megabytes per model call of each way to train, against full fine-tuning without recomputation."""
    variants = {
        "all parameters, activations recomputed": (None, True),
        "LoRA r 32": (LoRAConfig(rank=32), False),
        "LoRA r 32, activations recomputed": (LoRAConfig(rank=32), True),
    }
    preset = "small" if quick else "7b"
    baseline = saved_megabytes(preset, None, False)
    return [
        share_of(name, saved_megabytes(preset, *settings), "all parameters", baseline, "MB per model call")
        for name, settings in variants.items()
    ]


def saved_megabytes(preset: str, lora: LoRAConfig | None, activation_checkpointing: bool) -> float:
    """Counts what is saved for the backward pass, per model call."""
    config = OpenVLAOFTConfig.preset(preset)
    with torch.device("meta"):
        model = OpenVLAOFT(config).to(torch.bfloat16)
        if lora is not None:
            add_lora(model, lora)
    parallelize(model, Parallelism(activation_checkpointing=activation_checkpointing))
    totals = []
    for num_rows in (1, 2):  # the difference leaves out what does not depend on the number of rows
        side = config.image_size
        images = torch.zeros(num_rows, 1, side, side, 3, dtype=torch.uint8, device="meta")
        ids = torch.zeros(num_rows, PROMPT_LENGTH, dtype=torch.int64, device="meta")
        with _counted({id(p) for p in model.parameters()}) as storages, fused_operations():
            output = model(images, ids, torch.ones_like(ids, dtype=torch.bool))
        totals.append(sum(storages.values()))
        del output
    return (totals[1] - totals[0]) / _MEGABYTE


@contextlib.contextmanager
def _counted(parameters: set[int]) -> Iterator[dict[int, int]]:
    """Bytes per memory block that autograd saves; `parameters` are the tensors to leave out."""
    storages: dict[int, int] = {}
    kept = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in parameters and (tensor._base is None or id(tensor._base) not in parameters):
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # or its address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        yield storages
