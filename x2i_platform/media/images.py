"""A picture file becomes an upright 8-bit RGB picture.

Invariants: the format is read from the content, never from the name; the size is checked in the header, before a pixel
is decoded; whatever Pillow raises for a damaged file is an InputError that names it.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from x2i_platform.errors import InputError
from x2i_platform.media.limits import LIMITS, MediaLimits, read_file, require_size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_SCANS = 64
"""Scans of a JPEG: a progressive one has about 10, and each of thousands would be decoded over the whole picture."""
SHARE_OF_PIXELS = {"WEBP": 0.7}
"""WebP's decoder keeps two canvases beside the picture, so that fewer pixels take as much memory."""
STRIP = 256
"""Rows that are converted at a time."""
ORIENTATION = ExifTags.Base.Orientation
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What rights a picture, by the orientation in its EXIF data."""
_START_OF_SCAN = b"\xff\xda"
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, OverflowError, IndexError, KeyError, TypeError, AttributeError)
_CODEC_ERRORS = (struct.error, zlib.error, MemoryError, RuntimeError)


def read_image(path: Path, *, limits: MediaLimits = LIMITS) -> Image.Image:
    """The picture in a file; of an animated one the first frame. Raises InputError."""
    return decode_image(read_file(path, what="image", max_bytes=limits.image_bytes), name=str(path), limits=limits)


def decode_image(content: bytes, *, name: str = "image", limits: MediaLimits = LIMITS) -> Image.Image:
    """The picture in a file's bytes: upright, on white where it is transparent, in 8-bit RGB. Raises InputError.

    `name` stands for the file in messages.
    """
    where = f"image '{name}'"
    require_size(len(content), name=where, max_bytes=limits.image_bytes)
    if content.startswith(b"\xff\xd8") and content.count(_START_OF_SCAN) > MAX_SCANS:
        raise InputError(f"{where} has more than {MAX_SCANS} scans; save it anew")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; of too many pixels there is a check of our own
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                _require_pixels(opened, where=where, limits=limits)
                return _as_rgb(opened)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{where} is damaged, or none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{where} has too many pixels; at most {limits.image_pixels:,} are taken") from None
    except (*_DAMAGE, *_CODEC_ERRORS) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{where} can't be decoded: {reason}") from None


def _require_pixels(opened: Image.Image, *, where: str, limits: MediaLimits) -> None:
    width, height = opened.size
    at_most = round(limits.image_pixels * SHARE_OF_PIXELS.get(opened.format or "", 1.0))
    if width * height > at_most:
        raise InputError(f"{where} has {width} x {height} pixels; at most {at_most:,} in all are taken")
    if not width * height:
        raise InputError(f"{where} has {width} x {height} pixels")


def _as_rgb(opened: Image.Image) -> Image.Image:
    opened.load()
    # Depth: 16-bit grey and 32-bit float have no conversion to RGB that keeps their range.
    deep = opened.mode in ("I", "F") or opened.mode.startswith("I;16")
    image = _as_8_bit(opened) if deep else opened
    # Transparency: what shines through is white, as on a page.
    if image.has_transparency_data:
        clear = ImageOps.invert((image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A"))
        image = image.convert("RGB")
        image.paste("white", mask=clear)
    # Orientation: cameras store what the sensor saw, and how it was held.
    turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    image = image.convert("RGB")
    return image.transpose(turn) if turn is not None else image


def _as_8_bit(image: Image.Image) -> Image.Image:
    """Grey of more bits in 8. Strip by strip: as floats the whole picture would take four times its memory."""
    values: Any = np.asarray(image)
    # 16 bits are scaled by their own range; of a float picture nobody says which range it has, so its own is taken.
    top = 65535.0
    if image.mode == "F":
        finite = values[np.isfinite(values)]
        top = max(float(finite.max(initial=0.0)), 1e-12)
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), STRIP):
        strip = np.nan_to_num(values[start : start + STRIP].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        grey[start : start + STRIP] = (np.clip(strip / top, 0.0, 1.0) * 255).round()
    return Image.fromarray(grey)
