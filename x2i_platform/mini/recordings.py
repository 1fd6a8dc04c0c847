"""The spoken captions of the suite `audio`: recordings that ship, made by a synthesiser when the package was built.

A split is one Ogg file, all recordings one after another; an index beside it says which caption lies where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from x2i_platform.media.clips import Audio
from x2i_platform.media.sounds import read_audio

FOLDER = Path(__file__).with_name("sounds")
HELD_OUT, SEEN = "held_out", "seen"


@dataclass(frozen=True)
class Entry:
    """A recording's place in its file, and what is said in it."""

    caption: str
    voice: str
    """What eSpeak NG calls the voice."""
    words_a_minute: int
    pitch: int
    """Of eSpeak NG's 0 to 100."""
    start: int
    """In samples."""
    samples: int


def index(split: str) -> list[Entry]:
    """Return what a split's file holds, in order."""
    return [Entry(**entry) for entry in json.loads((FOLDER / f"{split}.json").read_text("utf-8"))]


def spoken(entry: Entry, *, split: str) -> Audio:
    """Return a recording."""
    whole = _whole(split)
    return Audio(whole.samples[entry.start : entry.start + entry.samples], whole.sampling_rate)


@cache
def _whole(split: str) -> Audio:
    return read_audio(FOLDER / f"{split}.ogg")
