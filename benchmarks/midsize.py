"""A model of 121 M parameters: one sampling call and a whole cycle, against the straightforward implementation.

A call has 256 patches, 30 prompt tokens and 56 action positions. Same weights, same results, one torch thread. The
baseline computes every ViT block and the logits of all positions over the whole vocabulary; in the cycle it also calls
the policy for trajectories that have ended, repeats the forward pass for the old log-probabilities, trains on padded
rows and prepares frames one by one, as the reference does. Half of the trajectories end halfway. Both cycles end with
an AdamW step.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks import straightforward
from benchmarks.image_chain import camera_frames
from benchmarks.measure import Figure, Variant, compare, share_of
from benchmarks.memory import peak_megabytes
from policies.openvla_oft import OpenVLAOFT, OpenVLAOFTConfig
from policies.openvla_oft.image_chain import apply_chain
from policies.openvla_oft.sampling import gather, log_probs_from_logits, sample

TEMPERATURE = 1.6
PROMPT_LENGTH = 30
MICRO_BATCH_SIZE = 2

Batch = tuple[Tensor, Tensor, Tensor]


def run(quick: bool) -> list[Figure]:
    """Returns time and memory of a sampling call, and the time of a cycle."""
    batch_size, num_trajectories, rounds = (2, 2, 1) if quick else (8, 4, 3)
    models = [OpenVLAOFT(midsize_config()) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    straightforward.make_straightforward(models[0])
    frames = camera_frames(3)
    batch = make_batch([frames[i % len(frames)] for i in range(batch_size)])
    calls = [lambda: sample_straightforward(models[0], batch), lambda: sample_fast(models[1], batch)]
    names = ["straightforward sampling call", "sampling call"]
    figures = compare([Variant(*pair) for pair in zip(names, calls, strict=True)], rounds=rounds, amount=batch_size)
    figures.append(_memory_figure([name + ", memory" for name in names], calls))
    cycles = [
        Cycle(model, frames, num_trajectories, in_full=in_full)
        for model, in_full in zip(models, (True, False), strict=True)
    ]
    variants = [Variant("straightforward cycle", cycles[0].run), Variant("cycle", cycles[1].run)]
    return figures + compare(variants, rounds=rounds, amount=num_trajectories)


def midsize_config() -> OpenVLAOFTConfig:
    """The preset `small` with a narrower language model."""
    return OpenVLAOFTConfig.preset(
        "small", hidden_size=512, intermediate_size=1408, num_attention_heads=8, num_key_value_heads=8
    )


def make_batch(frames: list[np.ndarray]) -> Batch:
    """Returns pictures, prompt ids and mask of one model call."""
    images = torch.from_numpy(apply_chain(frames, "libero", 224))[:, None]
    return images, *_prompts(len(frames))


def sample_straightforward(model: OpenVLAOFT, batch: Batch) -> Tensor:
    """Draws tokens, int64 [B, N]."""
    with torch.no_grad():
        probs = (straightforward.action_logits(model, *batch) / TEMPERATURE).softmax(dim=-1)
        return torch.multinomial(probs.flatten(0, 1), 1).view(probs.shape[:2])


def sample_fast(model: OpenVLAOFT, batch: Batch) -> tuple[Tensor, Tensor]:
    """Draws tokens and keeps their log-probabilities, [B, N] each."""
    with torch.no_grad():
        return sample(model(*batch), TEMPERATURE)


class Cycle:
    """Trajectories of two model calls, every other one ending after the first, and one optimizer step on them.

    Args:
        model: Is trained.
        frames: Camera frames, uint8 [256, 256, 3]; used in turn.
        num_trajectories: Even.
        in_full: The straightforward way.
    """

    def __init__(self, model: OpenVLAOFT, frames: list[np.ndarray], num_trajectories: int, *, in_full: bool):
        self.model = model
        self.frames = [frames[i % len(frames)] for i in range(num_trajectories)]
        self.in_full = in_full
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        self._logits: Callable[..., Tensor] = (
            (lambda *batch: straightforward.action_logits(model, *batch)) if in_full else model
        )

    def run(self) -> None:
        """Rollout and update."""
        collected = []
        for running in (slice(None), slice(None, None, 2)):
            if self.in_full:
                pictures = np.stack([straightforward.libero_picture(frame) for frame in self.frames])
                batch = (torch.from_numpy(pictures)[:, None], *_prompts(len(pictures)))
                bins, log_probs = sample_straightforward(self.model, batch), None
                # Ended trajectories are inferred and trained on as well, with weight zero.
                weight = torch.zeros(len(pictures))
                weight[running] = 1
            else:
                batch = make_batch(self.frames[running])
                bins, log_probs = sample_fast(self.model, batch)
                weight = torch.ones(len(bins))
            collected.append((*batch, bins, weight, log_probs))
        *columns, log_probs = zip(*collected, strict=True)
        rows = [torch.cat(column).split(MICRO_BATCH_SIZE) for column in columns]
        if self.in_full:
            with torch.no_grad():
                log_probs = [self._token_log_probs(micro[:3], micro[3]) for micro in zip(*rows, strict=True)]
        old = torch.cat(list(log_probs)).split(MICRO_BATCH_SIZE)
        self._update(list(zip(*rows, old, strict=True)))

    def _update(self, micro_batches: list[tuple[Tensor, ...]]) -> None:
        for *batch, bins, weight, old in micro_batches:
            ratio = (self._token_log_probs(batch, bins) - old).exp()
            loss = -torch.minimum(ratio, ratio.clamp(0.8, 1.28)).mean(dim=1)
            (loss * weight).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _token_log_probs(self, batch: tuple[Tensor, ...], bins: Tensor) -> Tensor:
        return gather(log_probs_from_logits(self._logits(*batch), TEMPERATURE), bins)


def _prompts(count: int) -> tuple[Tensor, Tensor]:
    ids = torch.arange(1, PROMPT_LENGTH + 1).expand(count, -1)
    return ids, torch.ones_like(ids, dtype=torch.bool)


def _memory_figure(names: list[str], calls: list[Callable[[], object]]) -> Figure:
    baseline, value = (peak_megabytes(call) for call in calls)
    return share_of(names[1], value, names[0], baseline, "MB")
