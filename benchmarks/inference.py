"""Policy calls for 16 waiting members: one batch, against one call each.

A call is the whole way from camera frames to actions: image chain, prompt, `tiny` model with random weights, sampling,
un-normalisation. One torch thread.
"""

import numpy as np
import torch

from benchmarks.measure import Figure, Variant, compare
from benchmarks.scenarios import IMAGE_SIZE, make_policy, training_scenes

NUM_MEMBERS = 16


def run(quick: bool) -> list[Figure]:
    """Returns the time per member."""
    policy = make_policy()
    frames = np.random.default_rng(0).integers(0, 256, (NUM_MEMBERS, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    instructions = [scene.instruction for scene in training_scenes(NUM_MEMBERS)]
    generator = torch.Generator().manual_seed(0)

    def act(first: int, last: int) -> None:
        inputs = policy.processor(list(frames[first:last]), instructions[first:last])
        token_ids, _ = policy.sample(inputs, 1.0, generator)
        policy.decode(token_ids)

    return compare(
        [
            Variant("a call per member", lambda: [act(i, i + 1) for i in range(NUM_MEMBERS)]),
            Variant("batches of 4", lambda: [act(i, i + 4) for i in range(0, NUM_MEMBERS, 4)]),
            Variant(f"one batch of {NUM_MEMBERS}", lambda: act(0, NUM_MEMBERS)),
        ],
        rounds=3 if quick else 25,
        amount=NUM_MEMBERS,
    )
