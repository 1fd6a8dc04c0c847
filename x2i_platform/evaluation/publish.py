"""Bytes into files, whole or not at all: a reader never meets half a report or half an image."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image


def publish(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its own, then rename it; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def png_bytes(image: Image.Image) -> bytes:
    """An image as a PNG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()
