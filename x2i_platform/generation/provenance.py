"""What a PNG says about how it was made, in its text chunks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

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


def png_bytes(made: Generated, *, prompt: str, how: Mapping[str, Any]) -> bytes:
    """A PNG with its text chunks."""
    buffer = io.BytesIO()
    made.image.save(buffer, format="png", pnginfo=text_chunks(prompt, how, answer=made.answer))
    return buffer.getvalue()
