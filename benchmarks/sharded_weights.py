"""Weights for environment runners from a sharded learner: bytes and seconds, against a full float32 state.

A model of 121 M parameters, float32 master weights sharded over a process group of one, sent in bfloat16. The baseline
gathers every tensor in float32 and copies it to numpy, as RLlib's default does. One process: what is measured is
conversion and copies; a network's share comes on top, in proportion to the bytes.
"""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.measure import Figure, Variant, compare, share_of
from benchmarks.midsize import midsize_config
from policies.openvla_oft import LoRAConfig, OpenVLAOFT, add_lora, lora_state_dict
from rllib_vla.distributed.parallelize import Parallelism, parallelize
from rllib_vla.distributed.sharded_weights import gather, to_numpy, travelling_dtypes

_MEGABYTE = 2**20
_CPU = torch.device("cpu")


def run(quick: bool) -> list[Figure]:
    """Returns time and size of what is sent: all weights, and LoRA adapters only."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        return _measure(rounds=1 if quick else 5)
    finally:
        dist.destroy_process_group()


def _measure(rounds: int) -> list[Figure]:
    mesh = init_device_mesh("cpu", (1,))
    how = Parallelism("fsdp2", compute_dtype=torch.bfloat16)
    model = OpenVLAOFT(midsize_config())
    parallelize(model, how, mesh)
    adapted = OpenVLAOFT(midsize_config())
    add_lora(adapted, LoRAConfig(rank=32))
    parallelize(adapted, how, mesh)
    weights = {"all weights, bfloat16": model.state_dict(), "LoRA adapters": lora_state_dict(adapted)}
    senders = [_Sender(tensors) for tensors in weights.values()]
    baseline = "all weights, float32"
    whole = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
    variants = [Variant(baseline, lambda: {name: to_numpy(t.full_tensor()) for name, t in model.state_dict().items()})]
    variants += [Variant(name, sender) for name, sender in zip(weights, senders, strict=True)]
    figures = compare(variants, rounds=rounds)
    megabytes = sum(tensor.nbytes for tensor in whole.values()) / _MEGABYTE
    for name, sender in zip(weights, senders, strict=True):
        size = sum(array.nbytes for array in sender.arrays.values()) / _MEGABYTE
        figures.append(share_of(name + ", size", size, baseline, megabytes, "MB"))
    return figures


class _Sender:
    """Gathers again and again into the same arrays, as a learner does after each update."""

    def __init__(self, weights):
        self._weights = weights
        self._dtypes = travelling_dtypes(weights, torch.bfloat16)
        self.arrays = None

    def __call__(self) -> None:
        self.arrays = gather(self._weights, self._dtypes, _CPU, self.arrays)
