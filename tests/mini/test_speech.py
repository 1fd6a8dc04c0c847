"""The synthesiser says what it is told, in the voice it is told, and the same each time."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from x2i_platform.errors import TrainingError
from x2i_platform.mini.speech import ACCENTS, NEW_TIMBRES, RATE, TIMBRES, Spoken, Voice, draw_voice, speak

pytest.importorskip("espeakng_loader", reason="the extra `speech` isn't installed")

TEXT = "a large red circle to the left of a medium-sized blue square"
PLAIN = Voice("en", "m1", 200, 50)


def said(text: str, voice: Voice = PLAIN) -> Spoken:
    return speak([(text, voice)])[0]


def test_what_was_said_before_changes_nothing() -> None:
    first = said(TEXT)
    speak([("three little hearts", Voice("en-us", "f1", 250, 30)), (TEXT, PLAIN)])
    assert np.array_equal(said(TEXT).samples, first.samples)
    for timbre in (*TIMBRES, *NEW_TIMBRES):  # some draw their breath at random
        pairs = [("a star", PLAIN), (TEXT, Voice("en", timbre, 200, 50))]
        for one, again in zip(speak(pairs), speak(pairs), strict=True):
            assert np.array_equal(one.samples, again.samples), timbre


def test_words_begin_in_order_and_end_with_the_sound() -> None:
    spoken = said(TEXT)
    for (place, time), (next_place, next_time) in pairwise(spoken.starts):
        assert place < next_place and time < next_time
    assert spoken.starts[-1][0] == len(TEXT)
    assert {place for place, _ in spoken.starts[:-1]} <= {0, *(i + 1 for i, c in enumerate(TEXT) if c == " ")}
    assert spoken.starts[-1][1] == pytest.approx(len(spoken.samples) / RATE, abs=0.1)


def test_the_louder_half_of_a_word_is_where_it_is_said_to_be() -> None:
    """A pause has no sound; a word has."""
    spoken = said("red")
    start, end = (round(time * RATE) for _, time in spoken.starts)
    energy = np.square(spoken.samples)
    assert energy[start:end].sum() > 0.95 * energy.sum()


def test_speed_and_pitch_are_heard() -> None:
    slow, fast = (len(said(TEXT, Voice("en", "m1", speed, 50)).samples) for speed in (160, 280))
    assert 1.4 < slow / fast < 2.0
    low, high = (said(TEXT, Voice("en", "m1", 200, pitch)).samples for pitch in (25, 75))
    crossings = [int((np.diff(np.sign(one)) != 0).sum()) for one in (low, high)]
    assert crossings[0] != crossings[1]


def test_every_voice_speaks_in_its_own_way() -> None:
    voices = [Voice(accent, timbre, 220, 50) for accent in ACCENTS for timbre in (*TIMBRES, *NEW_TIMBRES)]
    sounds = [one.samples for one in speak([("a blue heart", voice) for voice in voices])]
    assert len({sound.tobytes() for sound in sounds}) == len(voices)
    assert all(0.3 * RATE < len(sound) < 2 * RATE and np.abs(sound).max() > 0.1 for sound in sounds)


def test_drawn_voices_are_of_the_timbres_asked_for() -> None:
    draw = random.Random(1)
    assert {draw_voice(draw).timbre for _ in range(400)} == set(TIMBRES)
    assert {draw_voice(draw, timbres=NEW_TIMBRES).timbre for _ in range(200)} == set(NEW_TIMBRES)


def test_a_voice_that_there_is_not_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"no voice 'en-xx\+m1'"):
        said("a", Voice("en-xx", "m1", 200, 50))
