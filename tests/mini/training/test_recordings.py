"""Recordings are written as they were spoken, up to the coder's loss, and found again by their index."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from x2i_platform.mini import recordings
from x2i_platform.mini.speech import NEW_TIMBRES
from x2i_platform.mini.suites import cases
from x2i_platform.mini.training import recordings as writing
from x2i_platform.mini.training.audio import record

pytest.importorskip("espeakng_loader", reason="the extra `speech` isn't installed")


def test_what_was_recorded_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FOLDER", tmp_path)
    monkeypatch.setattr(recordings, "_whole", recordings._whole.__wrapped__)
    counts = {recordings.HELD_OUT: 3, recordings.SEEN: 2}
    writing.write(tmp_path, counts=counts)
    for split, count in counts.items():
        captions = [case.english for case in islice(cases("english", held_out=split == "held_out"), count)]
        made = record(captions, seed=writing.SEED, timbres=NEW_TIMBRES)
        entries = recordings.index(split)
        assert [entry.caption for entry in entries] == captions
        for entry, one in zip(entries, made, strict=True):
            assert (entry.voice, entry.words_a_minute) == (one.voice.name, one.voice.words_a_minute)
            found = recordings.spoken(entry, split=split).samples
            # The coder loses much of breath and noise; a recording cut a few samples off would have nothing in common.
            assert np.corrcoef(found, one.samples)[0, 1] > 0.5
