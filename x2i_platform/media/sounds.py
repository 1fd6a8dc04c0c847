"""A sound file becomes one channel at the rate that MLLMs hear: 16,000 samples a second.

Invariants: length and channels are checked in the header, before a sample is decoded; no sample is beyond -1 to 1, and
none is NaN.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from av import AudioResampler
from numpy.typing import NDArray

from x2i_platform.errors import InputError
from x2i_platform.media.clips import Audio
from x2i_platform.media.containers import AUDIO_CODECS, Deadline, codec_name, opened_container
from x2i_platform.media.limits import LIMITS, MediaLimits, read_file, require_size

SAMPLING_RATE = 16_000
MAX_CHANNELS = 32
MIN_RATE, MAX_RATE = 1_000, 384_000


def read_audio(path: Path, *, sampling_rate: int = SAMPLING_RATE, limits: MediaLimits = LIMITS) -> Audio:
    """A file's sound. Raises InputError."""
    content = read_file(path, what="audio", max_bytes=limits.audio_bytes)
    return decode_audio(content, name=str(path), sampling_rate=sampling_rate, limits=limits)


def decode_audio(
    content: bytes, *, name: str = "audio", sampling_rate: int = SAMPLING_RATE, limits: MediaLimits = LIMITS
) -> Audio:
    """The mean of all channels at `sampling_rate`. WAV, FLAC, Ogg and MP3 by libsndfile; M4A, WebM and AAC by FFmpeg.

    Raises InputError for what is no sound, is damaged, holds NaN or is beyond the limits.
    """
    where = f"audio '{name}'"
    require_size(len(content), name=where, max_bytes=limits.audio_bytes)
    try:
        file = soundfile.SoundFile(io.BytesIO(content))
    except (soundfile.LibsndfileError, TypeError, ValueError):
        return Audio(_by_ffmpeg(content, where=where, sampling_rate=sampling_rate, limits=limits), sampling_rate)
    with file:
        return Audio(_by_libsndfile(file, where=where, sampling_rate=sampling_rate, limits=limits), sampling_rate)


def _by_libsndfile(
    file: soundfile.SoundFile, *, where: str, sampling_rate: int, limits: MediaLimits
) -> NDArray[np.float32]:
    if file.channels > MAX_CHANNELS:
        raise InputError(f"{where} has {file.channels} channels; at most {MAX_CHANNELS} are taken")
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise InputError(f"{where} has {file.samplerate} samples a second; taken are {MIN_RATE} to {MAX_RATE}")
    _require_seconds(file.frames / file.samplerate, where=where, limits=limits)
    deadline = Deadline(limits.decode_seconds, where=where)
    resampler = soxr.ResampleStream(file.samplerate, sampling_rate, num_channels=1)
    parts: list[NDArray[np.float32]] = []
    try:
        # A second at a time: of many channels at a high rate only their mean at ours is held.
        for block in file.blocks(blocksize=file.samplerate, dtype="float32", always_2d=True):
            deadline.check()
            parts.append(resampler.resample_chunk(block.mean(axis=1)))
            # A header may claim less than there is.
            _require_seconds(len(parts) - 1, where=where, limits=limits)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise InputError(f"{where} can't be decoded: {' '.join(str(error).split())[:200]}") from None
    parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = np.concatenate(parts)
    parts.clear()
    return _checked(samples, where=where)


def _by_ffmpeg(content: bytes, *, where: str, sampling_rate: int, limits: MediaLimits) -> NDArray[np.float32]:
    with opened_container(content, where=where) as container:
        if not container.streams.audio:
            raise InputError(f"{where} holds no sound")
        stream = container.streams.audio[0]
        codec = codec_name(stream)
        if codec not in AUDIO_CODECS:
            raise InputError(f"{where} is coded in {codec}; taken are {', '.join(AUDIO_CODECS)}")
        if stream.duration is not None and stream.time_base is not None:
            _require_seconds(float(stream.duration * stream.time_base), where=where, limits=limits)
        deadline = Deadline(limits.decode_seconds, where=where)
        resampler = AudioResampler(format="flt", layout="mono", rate=sampling_rate)
        parts: list[Any] = []
        num_samples = 0
        for frame in container.decode(stream):
            deadline.check()
            for resampled in resampler.resample(frame):
                parts.append(resampled.to_ndarray().reshape(-1))
                num_samples += len(parts[-1])
            _require_seconds(num_samples / sampling_rate, where=where, limits=limits)
        parts += [resampled.to_ndarray().reshape(-1) for resampled in resampler.resample(None)]
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return _checked(samples, where=where)


def _require_seconds(seconds: float, *, where: str, limits: MediaLimits) -> None:
    if seconds > limits.audio_seconds:
        raise InputError(f"{where} lasts {seconds:,.0f} s; at most {limits.audio_seconds:,.0f} s are taken")


def _checked(samples: NDArray[np.float32], *, where: str) -> NDArray[np.float32]:
    if not len(samples):
        raise InputError(f"{where} holds no sound")
    if not np.isfinite(samples).all():
        raise InputError(f"{where} holds samples that are NaN or infinite")
    return np.clip(samples, -1.0, 1.0, out=samples)  # half an hour is 115 MB; no copy of it
