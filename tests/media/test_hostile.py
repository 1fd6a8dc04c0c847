"""The worst files that a stranger may send: each is refused, or decoded, within two seconds and 500 MB."""

from __future__ import annotations

import io
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.media.images import decode_image
from x2i_platform.media.sounds import decode_audio
from x2i_platform.media.videos import decode_video

MAX_SECONDS, MAX_MB = 2.0, 500
DECODERS: dict[str, Callable[[bytes], object]] = {
    "image": decode_image,
    "video": decode_video,
    "audio": decode_audio,
}


def decoded(kind: str, content: bytes) -> tuple[str, float, float]:
    """In a process of its own: the error's text, or none; seconds; the most memory that the process ever had, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak, which a process inherits from its parent
    began = time.monotonic()
    message = ""
    try:
        DECODERS[kind](content)
    except InputError as error:
        message = str(error)
    seconds = time.monotonic() - began
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return message, seconds, int(peak.split()[1]) / 1024


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[str, bytes], str]]:
    """Decodes in a fresh process and holds the bounds; the error's text."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:

        def decode(kind: str, content: bytes) -> str:
            message, seconds, megabytes = pool.submit(decoded, kind, content).result(timeout=60)
            assert seconds < MAX_SECONDS, f"{seconds:.1f} s"
            assert megabytes < MAX_MB, f"{megabytes:.0f} MB"
            return message

        yield decode


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans() -> bytes:
    """A progressive JPEG whose first scan is repeated: each would be decoded over the whole picture."""
    content = saved(Image.new("RGB", (4000, 4000), "red"), "JPEG", progressive=True)
    start = content.index(b"\xff\xda")
    end = content.index(b"\xff\xda", start + 2)
    return content[:start] + content[start:end] * 300 + content[end:]


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "no bytes": ("image", bytes, "is empty"),
    "text": ("image", lambda: b"hello " * 100, "none of PNG"),
    "a video in a picture's place": ("image", hostile.video, "none of PNG"),
    "PNG of 2.5 gigapixels": ("image", lambda: hostile.png(50_000, 50_000), "too many pixels"),
    "PNG of 36 megapixels": ("image", lambda: hostile.png(6_000, 6_000), "6000 x 6000"),
    "PNG that lies": ("image", lambda: hostile.png(4_000, 4_000), "truncated"),
    "PNG cut off": ("image", lambda: hostile.picture()[:500], "truncated"),
    "JPEG cut off": ("image", lambda: hostile.picture("JPEG")[:700], "truncated"),
    "JPEG of many scans": ("image", many_scans, "scans"),
    "WebP of 36 megapixels": (
        "image",
        lambda: saved(Image.new("RGB", (6_000, 6_000)), "WEBP", method=0),
        "6000 x 6000",
    ),
    "video without bytes": ("video", bytes, "is empty"),
    "video cut off": ("video", lambda: hostile.video()[:1500], "damaged"),
    "video that claims a million frames": ("video", lambda: hostile.claiming_frames(10**6), "1,000,000 frames"),
    "video of two hours in three frames": (
        "video",
        lambda: hostile.slow_video(num_frames=3, seconds_between=4000),
        "at most 3,600 s",
    ),
    "playlist": (
        "video",
        lambda: b"#EXTM3U\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        "none of the formats",
    ),
    "list of files": ("video", lambda: b"ffconcat version 1.0\nfile '/etc/hostname'\n", "none of the formats"),
    "sound in a video's place": ("video", hostile.sound, "holds no video"),
    "sound without bytes": ("audio", bytes, "is empty"),
    "sound without samples": ("audio", lambda: hostile.written(np.zeros(0, np.float32)), "holds no sound"),
    "sound cut off": ("audio", lambda: hostile.sound()[:30], "damaged"),
    "NaN": ("audio", lambda: hostile.written(np.full(1000, np.nan, np.float32)), "NaN"),
    "infinity": ("audio", lambda: hostile.written(np.full(1000, np.inf, np.float32)), "NaN or infinite"),
    "eight hours of silence": ("audio", lambda: hostile.silence(hours=8), "lasts 28,800 s"),
    "a picture in a sound's place": ("audio", hostile.picture, "none of the formats"),
    "a video without sound": ("audio", hostile.video, "holds no sound"),
}


@pytest.mark.parametrize(("kind", "make", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_hostile_file_is_refused_early(
    kind: str, make: Callable[[], bytes], reason: str, alone: Callable[[str, bytes], str]
) -> None:
    message = alone(kind, make())
    assert reason in message
    assert message.startswith(f"{kind} '{kind}' ")
    assert "\n" not in message


TAKEN: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG of 25 megapixels": ("image", lambda: hostile.png(5_000, 5_000, rows=b"\0" * 5_001 * 5_000)),
    "transparent WebP of 17 megapixels": (
        "image",
        lambda: saved(Image.new("RGBA", (5_000, 3_400), (1, 2, 3, 4)), "WEBP", lossless=True),
    ),
    "16-bit PNG of 25 megapixels": (
        "image",
        lambda: saved(Image.fromarray(np.zeros((5_000, 4_990), np.uint16)), "PNG"),
    ),
    "GIF of 3,000 frames": ("image", lambda: hostile.gif(num_frames=3_000)),
    "video of 4K": ("video", lambda: hostile.video(size=(4096, 2160), num_frames=12, rate=1)),
    "eight channels at 384 kHz": ("audio", lambda: hostile.sound(seconds=5, rate=384_000, channels=8)),
    "half an hour": ("audio", lambda: hostile.silence(hours=0.5)),
}


@pytest.mark.parametrize(("kind", "make"), TAKEN.values(), ids=TAKEN)
def test_the_largest_files_that_are_taken_stay_within_the_bounds(
    kind: str, make: Callable[[], bytes], alone: Callable[[str, bytes], str]
) -> None:
    assert alone(kind, make()) == ""
