"""What a PNG says about how it was made, in its text chunks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from x2i_platform.generation.generator import Generated


def text_chunks(prompt: str, how: Mapping[str, Any], *, answer: str | None = None) -> PngInfo:
    """A PNG's text chunks: `prompt`, the MLLM's `answer` if it gave one, and `x2i` with the rest as JSON."""
    chunks = PngInfo()
    chunks.add_itxt("prompt", prompt)
    if answer is not None:
        chunks.add_itxt("answer", answer)
    chunks.add_itxt("x2i", json.dumps(how))
    return chunks


def image_bytes(
    image: Image.Image,
    *,
    prompt: str,
    how: Mapping[str, Any] | None,
    answer: str | None = None,
    output_format: str = "png",
) -> bytes:
    """An image file: `png`, `jpeg` or `webp`. A PNG says in its text chunks how it was made, unless `how` is None."""
    buffer = io.BytesIO()
    says = how is not None and output_format == "png"
    text = {"pnginfo": text_chunks(prompt, how or {}, answer=answer)} if says else {}
    image.save(buffer, format=output_format, **text)
    return buffer.getvalue()


def png_bytes(made: Generated, *, prompt: str, how: Mapping[str, Any]) -> bytes:
    """A PNG with its text chunks."""
    return image_bytes(made.image, prompt=prompt, how=how, answer=made.answer)
