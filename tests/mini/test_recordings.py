"""The recordings that ship: small, spoken by voices that no training has, and of the captions that their index says."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from x2i_platform.mini import recordings, speech

each_split = pytest.mark.parametrize("split", [recordings.HELD_OUT, recordings.SEEN])


def test_all_are_small_and_said_to_be_what_they_are() -> None:
    files = {path.name: path.stat().st_size for path in recordings.FOLDER.iterdir()}
    assert set(files) == {"README.md", "held_out.json", "held_out.ogg", "seen.json", "seen.ogg"}
    assert sum(files.values()) < 2_500_000


@each_split
def test_a_recording_is_speech_between_silences(split: str) -> None:
    entries = recordings.index(split)
    for one, other in pairwise(entries):
        assert one.start + one.samples < other.start
    for entry in entries[::7]:
        sound = recordings.spoken(entry, split=split)
        assert len(sound.samples) == entry.samples and sound.sampling_rate == 16_000
        assert 0.4 < sound.seconds < 5
        assert np.abs(sound.samples).max() > 0.05
        gap = recordings._whole(split).samples[entry.start + entry.samples :][:4000]
        # The coder lets sound fade for some milliseconds.
        assert np.abs(gap[2000:]).max() < 0.05 * np.abs(sound.samples).max()


@each_split
def test_longer_captions_take_longer(split: str) -> None:
    entries = recordings.index(split)
    letters = [len(entry.caption) * 160 / entry.words_a_minute for entry in entries]
    assert np.corrcoef(letters, [entry.samples for entry in entries])[0, 1] > 0.9


@each_split
def test_voices_are_those_kept_from_training(split: str) -> None:
    voices = Counter(entry.voice for entry in recordings.index(split))
    assert {voice.partition("+")[2] for voice in voices} == set(speech.NEW_TIMBRES)
    assert {voice.partition("+")[0] for voice in voices} == set(speech.ACCENTS)
    assert not set(speech.NEW_TIMBRES) & set(speech.TIMBRES)
