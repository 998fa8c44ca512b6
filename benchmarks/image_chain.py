"""64 camera frames to pictures for a released LIBERO checkpoint: compiled loops, against NumPy frame by frame.

JPEG, Lanczos resize and centre crop of frames of 256 x 256 pixels; both ways give the same bytes. JPEG's share is
listed because libjpeg does it in both: it bounds what can be gained.
"""

import os

import numpy as np

import envs
from benchmarks.measure import Figure, Variant, compare
from benchmarks.scenarios import SUITE, training_scenes

NUM_FRAMES, FRAME_SIZE = 64, 256


def run(quick: bool) -> list[Figure]:
    """Returns the time per frame."""
    from benchmarks.straightforward import libero_picture
    from policies.openvla_oft.image_chain import apply_chain, jpeg_round_trip

    frames = camera_frames(3)
    frames = [frames[i % len(frames)] for i in range(NUM_FRAMES)]
    num_threads = os.cpu_count()
    return compare(
        [
            Variant("NumPy, frame by frame", lambda: [libero_picture(frame) for frame in frames]),
            Variant("one thread", lambda: apply_chain(frames, "libero", 224)),
            Variant(f"{num_threads} threads", lambda: apply_chain(frames, "libero", 224, num_threads=num_threads)),
            Variant("JPEG alone, one thread", lambda: [jpeg_round_trip(frame) for frame in frames]),
        ],
        rounds=3 if quick else 15,
        amount=NUM_FRAMES,
    )


def camera_frames(count: int) -> list[np.ndarray]:
    """Returns the first frames of `count` scenes, uint8 [256, 256, 3]."""
    env = envs.make_env(SUITE, image_size=FRAME_SIZE)
    try:
        return [env.reset(options={"scene": scene})[0]["image"] for scene in training_scenes(count)]
    finally:
        env.close()
