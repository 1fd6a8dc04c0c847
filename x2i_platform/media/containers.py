"""Files that FFmpeg reads, opened so that they can reach nothing else.

Invariants: only formats and codecs of the lists are probed; no playlist, no other file and no address is opened,
whatever a file says: FFmpeg would follow what an HLS or concat file names.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

import av
import av.error
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer
from av.video.stream import VideoStream

from x2i_platform.errors import InputError

FORMATS = "mov,matroska,webm,avi,mpegts,gif,ogg,flac,wav,mp3,aac"
VIDEO_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mpeg2video", "mjpeg", "gif", "theora")
AUDIO_CODECS = ("aac", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "alac", "pcm_s16le", "pcm_f32le")
_CLOSED = {
    "format_whitelist": FORMATS,
    "protocol_whitelist": "none",
    "enable_drefs": "0",
    "probesize": str(5 * 1024**2),
    "analyzeduration": str(2 * 10**6),
}


@contextmanager
def opened_container(content: bytes, *, where: str) -> Iterator[InputContainer]:
    """A container for the length of the block. What FFmpeg raises in it is an InputError that names the file."""
    try:
        with av.open(io.BytesIO(content), mode="r", options=_CLOSED, metadata_errors="replace") as container:
            yield container
    except (av.error.InvalidDataError, av.error.ArgumentError):
        raise InputError(f"{where} is damaged, or none of the formats {FORMATS.replace(',', ', ')}") from None
    except (av.error.FFmpegError, ValueError, MemoryError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{where} can't be decoded: {reason}") from None


def codec_name(stream: AudioStream | VideoStream) -> str:
    """The codec of a stream. A damaged file may name none that FFmpeg knows."""
    context: CodecContext | None = stream.codec_context
    return context.name if context else "an unknown codec"


class Deadline:
    """Raises InputError once decoding takes too long: a file may be cheap to send and dear to decode."""

    def __init__(self, seconds: float, *, where: str) -> None:
        self._end, self._seconds, self._where = time.monotonic() + seconds, seconds, where

    def check(self) -> None:
        """Raise if the time is up."""
        if time.monotonic() > self._end:
            raise InputError(f"{self._where} takes more than {self._seconds:g} s to decode; save it anew")
