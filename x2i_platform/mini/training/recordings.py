"""Records the English suite in voices that the audio tower has never heard, for an evaluation without a synthesiser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from x2i_platform.mini.recordings import HELD_OUT, SEEN, Entry
from x2i_platform.mini.speech import NEW_TIMBRES, RATE
from x2i_platform.mini.suites import cases
from x2i_platform.mini.training.audio import record

SEED = 2026
COUNTS = {HELD_OUT: 400, SEEN: 100}
"""As many as the other suites have in `benchmarks/ship_alignnet.py`."""
GAP_S = 0.25
"""Seconds of silence after each recording, so that the coder carries nothing over."""
COMPRESSION = 0.96
"""Of libsndfile's 0 to 1: about 16 kbit/s of Opus."""


def write(folder: Path, *, counts: Mapping[str, int] = COUNTS) -> None:
    """Write each split's sound and index. Voices and noise depend on how many recordings there are."""
    folder.mkdir(parents=True, exist_ok=True)
    gap = np.zeros(round(GAP_S * RATE), np.float32)
    for split, count in counts.items():
        captions = [case.english for case in islice(cases("english", held_out=split == HELD_OUT), count)]
        pieces, entries, start = [], [], 0
        for one, caption in zip(record(captions, seed=SEED, timbres=NEW_TIMBRES), captions, strict=True):
            voice, size = one.voice, len(one.samples)
            entries.append(Entry(caption, voice.name, voice.words_a_minute, voice.pitch, start, size))
            pieces += [one.samples, gap]
            start += size + len(gap)
        sound = np.concatenate(pieces)
        soundfile.write(
            folder / f"{split}.ogg", sound, RATE, format="OGG", subtype="OPUS", compression_level=COMPRESSION
        )
        lines = ",\n".join(json.dumps(asdict(entry)) for entry in entries)
        (folder / f"{split}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
