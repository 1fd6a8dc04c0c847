"""Sound comes out as one channel at 16 kHz, whatever it is in the file."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.media.limits import MediaLimits
from x2i_platform.media.sounds import decode_audio


def loudest_frequency(samples: np.ndarray, *, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples))
    return float(np.argmax(spectrum) * rate / len(samples))


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", None)]
)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_a_tone_stays_the_tone(kind: str, subtype: str | None, rate: int, channels: int) -> None:
    audio = decode_audio(hostile.sound(rate=rate, channels=channels, kind=kind, subtype=subtype))
    assert audio.sampling_rate == 16_000
    assert audio.seconds == pytest.approx(1.0, abs=0.08)  # MP3 pads
    assert audio.samples.dtype == np.float32
    assert loudest_frequency(audio.samples, rate=16_000) == pytest.approx(440, abs=2)
    assert np.abs(audio.samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.02)


def test_what_libsndfile_cannot_read_is_read_by_ffmpeg() -> None:
    buffer = io.BytesIO()
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)).astype(np.float32)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    audio = decode_audio(buffer.getvalue())
    assert audio.seconds == pytest.approx(1.0, abs=0.1)
    assert loudest_frequency(audio.samples, rate=16_000) == pytest.approx(440, abs=2)


def test_channels_are_averaged_and_nothing_is_beyond_full_scale() -> None:
    loud = np.stack([np.full(1600, 3.0), np.full(1600, 0.5)], axis=1).astype(np.float32)
    assert decode_audio(hostile.written(loud)).samples == pytest.approx(1.0)
    opposite = np.stack([np.full(1600, 0.5), np.full(1600, -0.5)], axis=1).astype(np.float32)
    assert decode_audio(hostile.written(opposite)).samples == pytest.approx(0.0)


def test_longer_than_allowed_is_refused() -> None:
    with pytest.raises(InputError, match="lasts 2 s; at most 1 s"):
        decode_audio(hostile.sound(seconds=2), limits=MediaLimits(audio_seconds=1.0))
