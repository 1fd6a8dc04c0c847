"""Speaks English captions with eSpeak NG: only for building the miniature's audio tower and its recorded suite.

Invariants: the same words and voice give the same samples, whatever was spoken before; nothing but the builder imports
this module. It needs the extra `speech`: a wheel with eSpeak NG's library and data, which is called through ctypes.
"""

from __future__ import annotations

import _ctypes
import ctypes
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from x2i_platform.errors import TrainingError

RATE = 16_000
"""Samples a second of all sounds here, as Whisper's features want them."""

ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbcwmd", "en-us-nyc")
TIMBRES = (
    *("m1", "m2", "m3", "m5", "m6", "m7", "f1", "f3", "f4", "whisper", "croak"),
    *("Andy", "Annie", "Denis", "Lee", "Michael", "Mike", "adam", "anika", "aunty", "belinda", "benjamin", "boris"),
    *("david", "ed", "edward", "grandma", "ian", "iven", "linda", "marcelo", "max", "michel", "miguel", "pablo"),
    *("quincy", "rob", "sandro", "shelby", "steph", "travis", "victor", "zac"),
)
"""eSpeak NG's variants of a voice that the audio tower is trained on."""
NEW_TIMBRES = ("m4", "m8", "f2", "f5", "Gene", "caleb")
"""Variants that it never hears in training."""
WORDS_A_MINUTE = (160, 280)
PITCHES = (25, 75)
"""Of eSpeak NG's 0 to 100."""

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: samples come through the callback before espeak_Synth returns
_UTF8 = 1  # espeakCHARS_UTF8
_SPEED, _PITCH = 1, 3  # of espeak_PARAMETER
_LIST_TERMINATED, _WORD, _END = 0, 1, 5  # of espeak_EVENT_TYPE


@dataclass(frozen=True)
class Voice:
    """How something is said."""

    accent: str
    timbre: str
    words_a_minute: int
    pitch: int
    """0 to 100."""

    @property
    def name(self) -> str:
        """What eSpeak NG calls the voice."""
        return f"{self.accent}+{self.timbre}"


@dataclass(frozen=True)
class Spoken:
    """A sentence and its sound."""

    samples: NDArray[np.float32]
    """Mono, from -1 to 1, `RATE` samples a second."""
    starts: tuple[tuple[int, float], ...]
    """Of each word, in order: at which character of the text it begins, and after how many seconds it is spoken. The
    last entry is the end of both."""


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def draw_voice(draw: random.Random, *, timbres: Sequence[str] = TIMBRES) -> Voice:
    """Draw a voice; all accents and timbres are equally frequent."""
    return Voice(draw.choice(ACCENTS), draw.choice(timbres), draw.randint(*WORDS_A_MINUTE), draw.randint(*PITCHES))


def version_of_speech() -> str:
    """What the sounds depend on besides words and voices."""
    return f"espeakng-loader {version('espeakng-loader')}, soxr {version('soxr')}"


def speak(lines: Sequence[tuple[str, Voice]]) -> list[Spoken]:
    """Say each text in its voice. 32 captions take about 50 ms."""
    with _engine() as engine:
        return [engine.say(text, voice=voice) for text, voice in lines]


@contextmanager
def _engine() -> Iterator[_Engine]:
    """Load the library anew.

    It keeps the phases of its oscillators from one sentence to the next, through `espeak_Terminate` too. Only a copy
    that hasn't spoken yet gives the same samples each time; loading one takes 3 ms.
    """
    import espeakng_loader  # a big wheel, which only the builder has

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        yield _Engine(library, data=espeakng_loader.get_data_path())
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


class _Engine:
    """A loaded eSpeak NG."""

    def __init__(self, library: ctypes.CDLL, *, data: str) -> None:
        self._library = library
        self._rate = int(library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), 0))
        self._require(min(self._rate, 0), what=f"can't read its data in {data}")
        # Some timbres breathe, and draw from two generators for it.
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)
        self._samples: list[bytes] = []
        self._starts: list[tuple[int, float]] = []
        self._callback = _CALLBACK(self._receive)  # the library keeps no reference
        library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, *, voice: Voice) -> Spoken:
        """Speak a text of ASCII letters: eSpeak NG counts characters, here as many as bytes."""
        self._samples, self._starts = [], []
        self._require(self._library.espeak_SetVoiceByName(voice.name.encode()), what=f"has no voice '{voice.name}'")
        self._library.espeak_SetParameter(_SPEED, voice.words_a_minute, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        content = text.encode("ascii")
        said = self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _UTF8, None, None)
        self._require(said, what=f"can't say {text!r}")
        # Not as integers: soxr would add noise to them, another one each time.
        samples = np.frombuffer(b"".join(self._samples), np.int16).astype(np.float32) / 2**15
        return Spoken(soxr.resample(samples, self._rate, RATE), tuple(self._starts))

    def _require(self, status: int, *, what: str) -> None:
        if status:
            raise TrainingError(f"eSpeak NG {what}: status {status}")

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        """Take samples and the words that begin among them."""
        if samples and count:
            self._samples.append(ctypes.string_at(samples, 2 * count))
        for event in events:
            if event.type == _LIST_TERMINATED:
                break
            if event.type in (_WORD, _END):
                self._starts.append((max(0, event.text_position - (event.type == _WORD)), event.audio_position / 1000))
        return 0  # go on
