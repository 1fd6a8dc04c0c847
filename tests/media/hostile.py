"""Files as strangers send them: cut off, lying about their size, or cheap to send and dear to decode."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image


def png(width: int, height: int, *, rows: bytes | None = None) -> bytes:
    """A PNG that claims a size; `rows` is what its pixels are packed from."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(rows if rows is not None else b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def picture(kind: str = "PNG", *, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options: Any) -> bytes:
    """A noisy picture as a file."""
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def video(*, num_frames: int = 30, size: tuple[int, int] = (64, 48), rate: int = 10, kind: str = "mp4") -> bytes:
    """Frames that get brighter from 0 on; frame i is grey of value `8 * i`, at most 255."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream("mpeg4" if kind != "webm" else "libvpx", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for number in range(num_frames):
            grey = np.full((size[1], size[0], 3), min(255, 8 * number), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


def slow_video(*, num_frames: int, seconds_between: int) -> bytes:
    """A video of few frames that lasts for ever."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.time_base = Fraction(1, 1)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number * seconds_between, Fraction(1, 1)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


def claiming_frames(num_frames: int) -> bytes:
    """An AVI whose stream header claims another number of frames than there are."""
    content = video(kind="avi")
    at = content.index(b"strh") + 40
    return content[:at] + struct.pack("<I", num_frames) + content[at + 4 :]


def sound(
    *, seconds: float = 1.0, rate: int = 16_000, channels: int = 1, kind: str = "WAV", subtype: str | None = "PCM_16"
) -> bytes:
    """A tone of 440 Hz at half the full scale, in every channel."""
    times = np.arange(int(seconds * rate)) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    return written(np.repeat(tone[:, None], channels, axis=1), rate=rate, kind=kind, subtype=subtype)


def written(samples: Any, *, rate: int = 16_000, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    """Samples as a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def silence(*, hours: float) -> bytes:
    """FLAC packs hours of it into a few megabytes."""
    buffer = io.BytesIO()
    second = np.zeros(8_000 * 60, np.int16)
    with soundfile.SoundFile(buffer, "w", 8_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(int(hours * 60)):
            file.write(second)
    return buffer.getvalue()


def gif(*, num_frames: int) -> bytes:
    """An animation of different frames."""
    frames = [Image.new("RGB", (16, 16), (number % 256, 0, number // 256)) for number in range(num_frames)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()
