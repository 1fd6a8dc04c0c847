"""Frames are those shown at the times asked for, found by seeking, upright."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.media.limits import MediaLimits
from x2i_platform.media.videos import decode_video, sample_times


def greys(content: bytes, *, fps: float = 1.0, max_frames: int = 64) -> tuple[list[float], float]:
    video = decode_video(content, fps=fps, max_frames=max_frames)
    return [float(np.asarray(frame).mean()) for frame in video.frames], video.fps


@pytest.mark.parametrize("kind", ["mp4", "mov", "webm", "avi", "matroska", "mpegts"])
def test_frames_are_those_shown_at_each_second(kind: str) -> None:
    found, fps = greys(hostile.video(num_frames=30, rate=10, kind=kind))
    assert fps == 1.0
    assert found == pytest.approx([0, 80, 160], abs=4)  # frames 0, 10 and 20 of 8 * i


def test_more_frames_a_second_are_found_too() -> None:
    found, fps = greys(hostile.video(num_frames=20, rate=10), fps=5.0)
    assert fps == pytest.approx(5.0)
    assert found == pytest.approx([16 * number for number in range(10)], abs=4)


def test_a_long_video_is_sampled_over_its_length() -> None:
    found, fps = greys(hostile.video(num_frames=300, rate=10), max_frames=4)
    assert fps == pytest.approx(4 / 30)
    assert len(found) == 4
    assert found == pytest.approx([0, 255, 255, 255], abs=4)


def test_seeking_finds_what_decoding_all_finds() -> None:
    content = hostile.video(num_frames=31, rate=1)  # 31 s, so that each of few frames is sought
    found, _ = greys(content, max_frames=5)
    with av.open(io.BytesIO(content), mode="r") as container:
        frames = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    times = sample_times(31.0, fps=1.0, max_frames=5)
    assert found == pytest.approx([frames[int(time)] for time in times], abs=0.5)


def test_times_are_a_grid_or_spread_over_the_length() -> None:
    assert sample_times(2.5, fps=1.0, max_frames=64) == [0.0, 1.0, 2.0]
    assert sample_times(0.0, fps=1.0, max_frames=64) == [0.0]
    assert sample_times(100.0, fps=1.0, max_frames=4) == [0.0, 25.0, 50.0, 75.0]


def test_large_frames_are_scaled_down_and_keep_their_shape() -> None:
    video = decode_video(hostile.video(size=(2048, 512), num_frames=2))
    assert video.frames[0].size == (1024, 256)


def test_an_animated_gif_is_a_video() -> None:
    assert len(decode_video(hostile.gif(num_frames=25)).frames) == 3


def test_decoding_ends_at_its_deadline() -> None:
    with pytest.raises(InputError, match="takes more than 0 s"):
        decode_video(hostile.video(), limits=MediaLimits(decode_seconds=0.0))


def test_frames_of_too_many_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="64 x 48"):
        decode_video(hostile.video(), limits=MediaLimits(video_pixels=1000))
