"""What a media file may be. The defaults fit a service: the worst file within them takes seconds and megabytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from x2i_platform.errors import InputError

MB = 1024**2


@dataclass(frozen=True)
class MediaLimits:
    """Upper bounds, checked before a file is decoded."""

    image_bytes: int = 30 * MB
    image_pixels: int = 25_000_000
    """A photo of 24 megapixels fits; decoders need up to 16 bytes a pixel."""
    video_bytes: int = 128 * MB
    video_pixels: int = 9_000_000
    """Pixels of a frame: 4096 x 2160 fits. A decoder keeps up to 16 frames."""
    video_seconds: float = 3600.0
    video_frames: int = 250_000
    """Frames that a header claims; an hour of 60 frames a second has 216,000."""
    audio_bytes: int = 128 * MB
    audio_seconds: float = 1800.0
    decode_seconds: float = 20.0
    """Wall-clock time that decoding one video or sound may take."""


LIMITS = MediaLimits()


def read_file(path: Path, *, what: str, max_bytes: int) -> bytes:
    """A local file's bytes. Raises InputError where there is none, or one that is empty or too large."""
    if "://" in str(path) or ":/" in str(path):
        raise InputError(f"{what} '{path}' is a URL; give a file, nothing is fetched")
    try:
        if not path.is_file():
            raise InputError(f"{what} '{path}' {'is no file' if path.exists() else 'is missing'}")
        size = path.stat().st_size
        require_size(size, name=f"{what} '{path}'", max_bytes=max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{what} '{path}' can't be read: {error.strerror or error}") from None


def require_size(size: int, *, name: str, max_bytes: int) -> None:
    """Raise InputError for an empty file, or one above the limit."""
    if not size:
        raise InputError(f"{name} is empty")
    if size > max_bytes:
        raise InputError(f"{name} has {size:,} bytes; at most {max_bytes:,} are taken")
