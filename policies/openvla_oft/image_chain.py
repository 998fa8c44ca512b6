"""Simulator frame to the picture that the model sees, without TensorFlow.

Released checkpoints were trained through TensorFlow's JPEG codec, antialiased Lanczos resize and
``crop_and_resize``; the steps below give the same bytes (simplevla_rl_spec 1.3: bit-exact on the recorded
frames). Frames are upright uint8 ``[H, W, 3]``; LIBERO's rotation by 180 degrees is `rotate_180` and belongs
to whoever reads raw frames.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

Frame = NDArray[np.uint8]

JPEG_QUALITY = 95
CROP_AREA = 0.9
_LANCZOS_RADIUS = 3
_TENSORFLOW_PI = 3.14159265359


def apply_chain(frame: Frame, chain: str, size: int) -> Frame:
    """One frame ``[H, W, 3] uint8`` through a named chain to ``[size, size, 3] uint8``.

    Args:
        frame: Upright frame.
        chain: ``"libero"``: JPEG, Lanczos, crop. ``"robotwin"``: crop. ``"resize"``: bicubic resize or
            nothing.
        size: Side of the result in pixels.

    Raises:
        ValueError: Not a uint8 frame of three channels, or an unknown chain.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"expected a uint8 frame [H, W, 3], got {frame.dtype} {frame.shape}")
    if chain == "libero":
        return center_crop(lanczos_resize(jpeg_round_trip(frame), size), size)
    if chain == "robotwin":
        return center_crop(frame, size)
    if chain == "resize":
        return bicubic_resize(frame, size)
    raise ValueError(f"unknown image chain {chain!r}")


def rotate_180(frame: Frame) -> Frame:
    """LIBERO's raw ``agentview_image`` is upside down and mirrored."""
    return np.ascontiguousarray(frame[..., ::-1, ::-1, :])


def jpeg_round_trip(frame: Frame) -> Frame:
    """Compress and decompress as TensorFlow does.

    Its encoder equals Pillow's at quality 95 (4:2:0); its decoder is libjpeg-turbo with the fast integer
    DCT, which an accurate decoder misses by up to 16 grey levels.
    """
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return simplejpeg.decode_jpeg(buffer.getvalue(), fastdct=True, fastupsample=False)


def lanczos_resize(frame: Frame, size: int) -> Frame:
    """Antialiased Lanczos-3 resize to ``[size, size, 3]``, rounded once at the end."""
    return np.clip(np.rint(lanczos_resize_float(frame, size)), 0, 255).astype(np.uint8)


def lanczos_resize_float(frame: Frame, size: int) -> NDArray[np.float32]:
    """`lanczos_resize` before rounding. Sums run in TensorFlow's order, in float32."""
    height, width = frame.shape[:2]
    rows = _resample(frame.astype(np.float32), *_lanczos_weights(height, size))
    columns = _resample(np.ascontiguousarray(rows.transpose(1, 0, 2)), *_lanczos_weights(width, size))
    return columns.transpose(1, 0, 2)


def _resample(
    values: NDArray[np.float32], taps: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weighted sum of source rows, tap by tap."""
    total = np.zeros((taps.shape[1], *values.shape[1:]), dtype=np.float32)
    for index, weight in zip(taps, weights, strict=True):
        total += values[index] * weight[:, None, None]
    return total


@lru_cache(maxsize=16)
def _lanczos_weights(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source indices and weights ``[taps, target]`` of an antialiased Lanczos-3 resize along one axis."""
    f32 = np.float32
    inverse_scale = f32(1) / (f32(target) / f32(source))
    kernel_scale = max(inverse_scale, f32(1))
    radius = f32(_LANCZOS_RADIUS) * kernel_scale
    num_taps = min(2 * math.ceil(radius) + 1, source)
    taps = np.zeros((num_taps, target), dtype=np.int64)
    weights = np.zeros((num_taps, target), dtype=f32)
    for i in range(target):
        center = (f32(i) + f32(0.5)) * inverse_scale
        first = max(math.ceil(center - radius - f32(0.5)), 0)
        last = min(math.floor(center + radius - f32(0.5)), source - 1)
        span = np.arange(first, last + 1)
        kernel = _lanczos3((span.astype(f32) + f32(0.5) - center) * (f32(1) / kernel_scale))
        total = f32(0)
        for value in kernel:
            total += value
        taps[: len(span), i] = span
        weights[: len(span), i] = kernel * (f32(1) / total)
    return taps, weights


def _lanczos3(x: NDArray[np.float32]) -> NDArray[np.float32]:
    pi = np.float32(_TENSORFLOW_PI)
    radius = np.float32(_LANCZOS_RADIUS)
    x = np.abs(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = radius * np.sin(pi * x) * np.sin(pi * x / radius) / (pi * pi * x * x)
    w = np.where(x <= np.float32(1e-3), np.float32(1), w)
    return np.where(x > radius, np.float32(0), w).astype(np.float32)


def center_crop(frame: Frame, size: int) -> Frame:
    """Centre crop of 0.9 of the area, read back at ``[size, size, 3]`` by bilinear interpolation.

    As ``tf.image.crop_and_resize`` on float pixels in [0, 1], converted back by truncating x · 255.5.
    """
    height, width = frame.shape[:2]
    pixels = frame.astype(np.float32) * np.float32(1 / 255)
    top, bottom, y_weight = _crop_rows(height, size)
    left, right, x_weight = _crop_rows(width, size)
    x_weight = x_weight[None, :, None]
    upper, lower = pixels[top], pixels[bottom]
    upper = upper[:, left] + (upper[:, right] - upper[:, left]) * x_weight
    lower = lower[:, left] + (lower[:, right] - lower[:, left]) * x_weight
    values = upper + (lower - upper) * y_weight[:, None, None]
    return np.minimum(np.clip(values, 0, 1) * np.float32(255.5), 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _crop_rows(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Lower and upper neighbour and interpolation weight of each sampled row (or column)."""
    f32 = np.float32
    # float32 square root, as in the reference: the neighbouring float32 changes pixels.
    side = np.sqrt(f32(CROP_AREA))
    offset = (f32(1) - side) / f32(2)
    start, stop = offset, offset + side
    scale = (stop - start) * f32(source - 1) / f32(target - 1)
    position = start * f32(source - 1) + np.arange(target, dtype=f32) * scale
    low = np.floor(position).astype(np.int64)
    high = np.ceil(position).astype(np.int64)
    return low, high, (position - low).astype(f32)


def bicubic_resize(frame: Frame, size: int) -> Frame:
    """Pillow's bicubic resize, as the released image processor does; nothing to do at the right size."""
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC))
