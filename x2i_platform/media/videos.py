"""A video file becomes a few upright frames, sampled evenly.

Invariants: size, length and number of frames are checked in the header, before a frame is decoded; frames are found by
seeking, so a long video is never decoded whole; of a video nothing is kept but the frames that were asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from av import VideoFrame
from av.container import InputContainer
from av.video.stream import VideoStream
from PIL import Image

from x2i_platform.errors import InputError
from x2i_platform.media.clips import Video
from x2i_platform.media.containers import VIDEO_CODECS, Deadline, codec_name, opened_container
from x2i_platform.media.limits import LIMITS, MediaLimits, read_file, require_size

FPS = 1.0
MAX_FRAMES = 64
"""As X2I samples videos: one frame a second, at most 64."""
SEEK_GAP_S = 4.0
"""Where the next frame is farther away than this, a key frame is looked for; nearer ones are decoded up to."""
LONGEST_SIDE = 1024
"""Frames are scaled down to it: 64 of them are held at once."""
MAX_DECODED_PER_FRAME = 1000
"""Frames between two key frames that may have to be decoded to get at one that was asked for."""


def read_video(path: Path, *, fps: float = FPS, max_frames: int = MAX_FRAMES, limits: MediaLimits = LIMITS) -> Video:
    """A file's video, sampled. Raises InputError."""
    content = read_file(path, what="video", max_bytes=limits.video_bytes)
    return decode_video(content, name=str(path), fps=fps, max_frames=max_frames, limits=limits)


def decode_video(
    content: bytes,
    *,
    name: str = "video",
    fps: float = FPS,
    max_frames: int = MAX_FRAMES,
    limits: MediaLimits = LIMITS,
) -> Video:
    """Frames at `fps`, from the first on; where these would be more than `max_frames`, so many spread over the length.

    Raises InputError for what is no video, is damaged or is beyond the limits. `name` stands for the file in messages.
    """
    where = f"video '{name}'"
    require_size(len(content), name=where, max_bytes=limits.video_bytes)
    with opened_container(content, where=where) as container:
        stream = _stream(container, where=where)
        seconds = _checked_seconds(container, stream, where=where, limits=limits)
        times = sample_times(seconds, fps=fps, max_frames=max_frames)
        deadline = Deadline(limits.decode_seconds, where=where)
        frames = tuple(_frames_at(container, stream, times, deadline=deadline))
    if not frames:
        raise InputError(f"{where} has no frame that can be decoded")
    step = times[1] - times[0] if len(times) > 1 else 1 / fps
    return Video(frames, fps=1 / step)


def sample_times(seconds: float, *, fps: float, max_frames: int) -> list[float]:
    """Seconds at which frames are taken: every `1 / fps`, or `max_frames` spread over the length."""
    wanted = max(1, math.ceil(seconds * fps))
    if wanted <= max_frames:
        return [number / fps for number in range(wanted)]
    return [seconds * number / max_frames for number in range(max_frames)]


def _stream(container: InputContainer, *, where: str) -> VideoStream:
    if not container.streams.video:
        raise InputError(f"{where} holds no video")
    stream = container.streams.video[0]
    codec = codec_name(stream)
    if codec not in VIDEO_CODECS:
        raise InputError(f"{where} is coded in {codec}; taken are {', '.join(VIDEO_CODECS)}")
    return stream


def _checked_seconds(container: InputContainer, stream: VideoStream, *, where: str, limits: MediaLimits) -> float:
    """The length that the header tells, or 0 where it tells none."""
    width, height = stream.width, stream.height
    if not width * height or width * height > limits.video_pixels:
        raise InputError(f"{where} has frames of {width} x {height}; at most {limits.video_pixels:,} pixels are taken")
    if stream.frames > limits.video_frames:
        raise InputError(f"{where} claims {stream.frames:,} frames; at most {limits.video_frames:,} are taken")
    seconds = 0.0
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        seconds = container.duration / 1_000_000
    if seconds > limits.video_seconds:
        raise InputError(f"{where} lasts {seconds:,.0f} s; at most {limits.video_seconds:,.0f} s are taken")
    return max(0.0, seconds)


def _frames_at(
    container: InputContainer, stream: VideoStream, times: list[float], *, deadline: Deadline
) -> Iterator[Image.Image]:
    """The frame shown at each time. The last ones may be missing: headers round lengths up."""
    time_base = stream.time_base or Fraction(1, 1_000_000)
    start = float((stream.start_time or 0) * time_base)
    walk, before = _Walk(container, stream, deadline=deadline), 0.0
    yielded: VideoFrame | None = None
    for seconds in times:
        if seconds - before > SEEK_GAP_S:
            walk.seek(int((start + seconds) / time_base))
        frame = walk.forward(start + seconds)
        if frame is None or (walk.ended and frame is yielded):
            return
        yield _upright(frame)
        yielded, before = frame, seconds


class _Walk:
    """Goes through a video's frames, forward only, or on from a key frame."""

    def __init__(self, container: InputContainer, stream: VideoStream, *, deadline: Deadline) -> None:
        self._container, self._stream, self._deadline = container, stream, deadline
        self.seek(None)

    def seek(self, timestamp: int | None) -> None:
        """To the last key frame before a time in the stream's own units; with None, to the beginning."""
        if timestamp is not None:
            self._container.seek(timestamp, stream=self._stream, backward=True)
        self._frames = self._container.decode(self._stream)
        self._shown: VideoFrame | None = None
        self._next: VideoFrame | None = None
        self.ended = False

    def forward(self, seconds: float) -> VideoFrame | None:
        """The frame shown at a time: the last that begins no later, or the first where all begin later."""
        for _ in range(MAX_DECODED_PER_FRAME):
            self._deadline.check()
            self._next = self._next or next(self._frames, None)
            if self._next is None:
                self.ended = True
                break
            if self._shown is not None and (self._next.time is None or self._next.time > seconds + 1e-6):
                break
            self._shown, self._next = self._next, None
        return self._shown


def _upright(frame: VideoFrame) -> Image.Image:
    scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
    image: Image.Image = frame.to_image(
        width=max(1, round(frame.width * scale)), height=max(1, round(frame.height * scale))
    )  # type: ignore[no-untyped-call]
    # FFmpeg gives the turn that rights the picture, counter-clockwise, in degrees.
    return image.rotate(frame.rotation, expand=True) if frame.rotation % 360 else image
