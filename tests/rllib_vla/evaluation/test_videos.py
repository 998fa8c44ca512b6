import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from rllib_vla.evaluation.videos import parse_videos, write_filmstrip, write_video


def grey_ramp(num_frames, height=49, width=65):
    """Frame t is uniformly 10 t + 40, with odd sides to exercise the padding."""
    return [np.full((height, width, 3), 40 + 10 * t, np.uint8) for t in range(num_frames)]


def decode(path):
    """Metadata and frames of a video, read back by ffmpeg."""
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]


def test_video_has_every_frame_in_order_in_a_format_that_all_players_decode(tmp_path):
    path = write_video(tmp_path / "videos" / "episode.mp4", grey_ramp(13), fps=20)
    meta, frames = decode(path)
    assert len(frames) == 13
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["size"] == (66, 50)
    assert meta["fps"] == 20
    np.testing.assert_allclose([f.mean() for f in frames], [40 + 10 * t for t in range(13)], atol=4)
    assert [p.name for p in path.parent.iterdir()] == ["episode.mp4"]


def test_filmstrip_shows_first_and_last_frame(tmp_path):
    path = write_filmstrip(tmp_path / "strip.png", grey_ramp(13), num_frames=4)
    strip = np.asarray(Image.open(path))
    assert strip.shape == (49, 4 * 65, 3)
    assert [int(strip[0, i * 65, 0]) for i in range(4)] == [40, 80, 120, 160]


def test_filmstrip_of_a_short_episode_repeats_nothing(tmp_path):
    path = write_filmstrip(tmp_path / "strip.png", grey_ramp(2), num_frames=8)
    assert Image.open(path).size == (2 * 65, 49)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [np.zeros((4, 4, 3), np.float32)],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)],
    ],
)
def test_frames_that_are_no_video_are_refused(tmp_path, frames):
    with pytest.raises(ValueError, match=r"[Ff]rames"):
        write_video(tmp_path / "episode.mp4", frames)


def test_which_episodes_are_recorded():
    assert [parse_videos(text) for text in ("failed", "all", "2", "scenes:0", "scenes:3,12")] == [
        "failed",
        "all",
        2,
        (0,),
        (3, 12),
    ]


@pytest.mark.parametrize("text", ["", "-1", "none", "0,3", "scenes:", "scenes:1,", "scenes:a", "scene:1"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="scenes such as 'scenes:0,3'"):
        parse_videos(text)
