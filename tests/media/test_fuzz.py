"""Damaged files of every format, for a bounded time: each is decoded or refused, and none brings the process down."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.media.images import decode_image
from x2i_platform.media.sounds import decode_audio
from x2i_platform.media.videos import decode_video

SECONDS = 8.0
"""For each format."""
SLOWEST_S = 2.0
FORMATS: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    **{kind: (decode_image, partial(hostile.picture, kind)) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")},
    "GIF": (decode_image, partial(hostile.gif, num_frames=5)),
    **{kind: (decode_video, partial(hostile.video, kind=kind)) for kind in ("mp4", "webm", "avi", "mpegts")},
    "WAV": (decode_audio, hostile.sound),
    "FLAC": (decode_audio, partial(hostile.sound, kind="FLAC")),
    "OGG": (decode_audio, partial(hostile.sound, kind="OGG", subtype="VORBIS")),
    "MP3": (decode_audio, partial(hostile.sound, kind="MP3", subtype=None)),
}


def damaged(content: bytes, *, draw: random.Random) -> bytes:
    """Some bytes changed, a piece cut out or repeated: mostly near the beginning, where headers are."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 8)):
        place = min(len(changed) - 1, int(len(changed) * draw.random() ** 3))
        changed[place] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
    if draw.random() < 0.3:
        begin, end = sorted(draw.choices(range(len(changed)), k=2))
        changed[begin:end] = changed[begin:end] * draw.choice((0, 2))
    return bytes(changed)


def fuzz(kind: str) -> tuple[int, int, float]:
    """Files tried, files that were decoded all the same, and the slowest one's seconds."""
    decode, make = FORMATS[kind]
    content, draw = make(), random.Random(kind)
    tried = taken = 0
    slowest = 0.0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.monotonic()
        tried += 1
        try:
            decode(damaged(content, draw=draw))
            taken += 1
        except InputError:
            pass
        slowest = max(slowest, time.monotonic() - began)
    return tried, taken, slowest


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_decoded_or_refused(kind: str) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        tried, taken, slowest = pool.submit(fuzz, kind).result(timeout=60)
    assert tried > 50
    assert taken < tried
    assert slowest < SLOWEST_S
