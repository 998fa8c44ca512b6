"""Videos and filmstrips of episodes, as files that any player or viewer opens."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

# How many per task (failed ones first), which outcome, or the indices of scenes.
Videos = int | Literal["failed", "all"] | tuple[int, ...]

_SCENES = "scenes:"


def parse_videos(text: str) -> Videos:
    """Reads which episodes are recorded: ``failed``, ``all``, a number per task, or ``scenes:0,3``.

    Raises:
        ValueError: It is none of these.
    """
    if text in ("failed", "all"):
        return text
    if text.isdecimal():
        return int(text)
    indices = text.removeprefix(_SCENES).split(",")
    if not text.startswith(_SCENES) or not all(index.isdecimal() for index in indices):
        raise ValueError(f"must be 'failed', 'all', a number, or scenes such as 'scenes:0,3', got {text!r}")
    return tuple(map(int, indices))


def check_scenes_are_played(videos: Videos, scene_indices: Iterable[int]) -> None:
    """Raises ValueError if a scene that is to be recorded is not among those that are played."""
    played = set(scene_indices)
    missing = sorted(set(videos) - played) if isinstance(videos, tuple) else []
    if missing:
        raise ValueError(f"scene {missing[0]} cannot be recorded: it is not played, the last one is {max(played)}")


def episode_name(task: str, split: str, scene_index: int, repeat: int) -> str:
    """Returns what the files of a recorded episode are called, up to its outcome."""
    return f"{task}_{split}_{scene_index:02d}_{repeat}"


def write_video(path: str | Path, frames: Sequence[np.ndarray], *, fps: float = 20.0) -> Path:
    """Writes an H.264 mp4 in 4:2:0 (the only chroma format that browsers and phones all play).

    4:2:0 needs even sides: the last row or column is repeated where a side is odd. The file appears under its
    name only when it is complete.

    Args:
        path: Target, ending in ``.mp4``; its folder is made.
        frames: At least one frame, all ``[H, W, 3] uint8``.
        fps: Frames per second.

    Returns:
        The path.

    Raises:
        ImportError: imageio-ffmpeg is not installed.
        ValueError: There are no frames, or they are not uint8 [H, W, 3] of one size.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("Videos need imageio-ffmpeg: pip install imageio-ffmpeg") from error
    path = Path(path)
    stack = _checked(frames)
    stack = np.pad(stack, ((0, 0), (0, stack.shape[1] % 2), (0, stack.shape[2] % 2), (0, 0)), mode="edge")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part.mp4")
    writer = imageio_ffmpeg.write_frames(
        str(temporary),
        (stack.shape[2], stack.shape[1]),
        fps=fps,
        codec="libx264",
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        quality=7,
        # Index at the front, so that a player can start before it has the whole file.
        output_params=["-movflags", "+faststart"],
    )
    writer.send(None)
    for frame in stack:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    os.replace(temporary, path)
    return path


def write_filmstrip(path: str | Path, frames: Sequence[np.ndarray], *, num_frames: int = 8) -> Path:
    """Writes a PNG with `num_frames` evenly spaced frames (the first and the last among them) side by side.

    Args:
        path: Target, ending in ``.png``; its folder is made.
        frames: At least one frame, all ``[H, W, 3] uint8``.
        num_frames: Pictures in the strip; fewer if there are fewer frames.

    Raises:
        ValueError: As in `write_video`.
    """
    path = Path(path)
    stack = _checked(frames)
    chosen = np.unique(np.linspace(0, len(stack) - 1, min(num_frames, len(stack))).round().astype(int))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(list(stack[chosen]), axis=1)).save(path)
    return path


def _checked(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks frames to ``[T, H, W, 3] uint8``."""
    if len(frames) == 0:
        raise ValueError("No frames to write")
    shapes = {(f.dtype, f.shape) for f in frames}
    (dtype, shape) = next(iter(shapes))
    if len(shapes) > 1 or dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"Frames must all be uint8 [H, W, 3] of one size, not {sorted(map(str, shapes))}")
    return np.stack(frames)


def read_video(path: str | Path) -> tuple[list[np.ndarray], float]:
    """Returns the frames of a video, ``[H, W, 3] uint8`` each, and how many there are in a second.

    Raises:
        ImportError: imageio-ffmpeg is not installed.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("Videos need imageio-ffmpeg: pip install imageio-ffmpeg") from error
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader], about["fps"]
