"""Every stage of the image chain against recorded TensorFlow output, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from policies.openvla_oft import image_chain
from policies.openvla_oft.vision import PIXEL_MEAN, PIXEL_STD

FRAMES = ("img0", "img1", "img2", "img3_edges")


@pytest.mark.parametrize("name", FRAMES)
def test_libero_stages(recorded, name):
    arrays = recorded.arrays("preprocess_libero")
    frame = image_chain.rotate_180(arrays[f"{name}__raw_u8"])
    decoded = image_chain.jpeg_round_trip(frame)
    np.testing.assert_array_equal(decoded, arrays[f"{name}__jpeg_decoded_u8"])
    resized = image_chain.lanczos_resize(decoded, 224)
    np.testing.assert_array_equal(resized, arrays[f"{name}__resized_u8"])
    np.testing.assert_array_equal(image_chain.center_crop(resized, 224), arrays[f"{name}__center_crop_u8"])


def test_lanczos_before_rounding(recorded):
    arrays = recorded.arrays("preprocess_libero")
    turned = image_chain.lanczos_resize_turned(arrays["img0__jpeg_decoded_u8"], 224)
    np.testing.assert_allclose(turned.transpose(1, 0, 2), arrays["img0__lanczos_f32"], atol=1e-3)


@pytest.mark.parametrize("benchmark", ["libero", "robotwin"])
def test_prepare_images(recorded, benchmark):
    arrays = recorded.arrays(f"preprocess_{benchmark}")
    raw = np.stack([arrays[f"{name}__raw_u8"] for name in FRAMES])
    expected = np.stack([arrays[f"{name}__center_crop_u8"] for name in FRAMES])
    processor = recorded.policy(f"{benchmark}_bf16").processor
    np.testing.assert_array_equal(processor.prepare_images(raw[:, None], benchmark)[:, 0], expected)
    # Upright frames through the checkpoint's own chain give the same pictures.
    upright = image_chain.rotate_180(raw) if benchmark == "libero" else raw
    assert processor.config.image_chain == benchmark
    np.testing.assert_array_equal(np.stack([processor.image(frame) for frame in upright]), expected)


def test_bicubic_resize(recorded):
    arrays = recorded.arrays("preprocess_libero")
    resized = image_chain.bicubic_resize(arrays["bicubic__raw_u8"], 224)
    pixels = (resized.astype(np.float32) / 255 - np.float32(PIXEL_MEAN[0])) / np.float32(PIXEL_STD[0])
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), arrays["bicubic__pixel_values_f32"], atol=1e-6)


@pytest.mark.parametrize("suite", ["libero", "robotwin"])
def test_model_normalises_pixels_as_recorded(recorded, suite):
    arrays = recorded.arrays(f"preprocess_{suite}")
    picture = arrays["img0__center_crop_u8"].astype(np.float32) / 255
    towers = [(picture - np.float32(m)) / np.float32(s) for m, s in zip(PIXEL_MEAN, PIXEL_STD, strict=True)]
    expected = arrays["img0__pixel_values_f32"]
    np.testing.assert_allclose(np.concatenate(towers, axis=2).transpose(2, 0, 1), expected, atol=1e-6)


def test_resize_chain_leaves_fitting_frames_alone():
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(image_chain.apply_chain(frames, "resize", 96), frames)
    assert image_chain.apply_chain(frames, "resize", 48).shape == (2, 48, 48, 3)


@pytest.mark.parametrize("chain", image_chain.CHAINS)
def test_threads_and_neighbours_change_nothing(chain):
    """Buffers are reused: neither the frame before, nor one of another size, nor other threads may show through."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in [(256, 256), (240, 320), (96, 128)] * 5]
    alone = [image_chain.apply_chain([frame], chain, 224)[0] for frame in frames]
    for num_threads in (1, 4, 32):
        together = image_chain.apply_chain(frames, chain, 224, num_threads=num_threads)
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("frame", [np.zeros((96, 96, 3), np.float32), np.zeros((96, 96), np.uint8)])
def test_refuses_what_is_no_frame(frame):
    with pytest.raises(ValueError, match="uint8 frame"):
        image_chain.apply_chain([frame], "resize", 96)


def test_unknown_chain_is_refused():
    with pytest.raises(ValueError, match="'bridge'; valid: libero, robotwin, resize"):
        image_chain.apply_chain([np.zeros((96, 96, 3), np.uint8)], "bridge", 96)
