"""Images as PNG, in memory and as files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from x2i_platform.files import publish


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image, whole or not at all."""
    publish(path, png_bytes(image))
