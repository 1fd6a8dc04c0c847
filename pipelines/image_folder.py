"""What a folder of generated images has beside them: the index and a contact sheet.

Both are written at the end and in one step each, so they list whole files alone.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image

from pipelines.generator_pool import Row
from x2i_platform.evaluation.contact_sheet import contact_sheet
from x2i_platform.features.files import Files
from x2i_platform.generation.index import answers_of, index_bytes

IMAGES, INDEX_FILE, SHEET_FILE = "images", "index.parquet", "contact_sheet.png"
SHEET_IMAGES = 64


@dataclass(frozen=True)
class GenerationSummary:
    """What a run did. `requests == images + failed`, unless requests ask for several images."""

    out: str
    requests: int
    images: int
    made: int
    failed: int
    seconds: float
    images_per_s: float

    @classmethod
    def of(cls, out: str, *, requests: int, images: int, made: int, failed: int, started: float) -> Self:
        """The summary of a run that `started` at a time of the monotonic clock and ends now."""
        seconds = time.monotonic() - started
        rate = round(made / seconds, 2)
        return cls(out, requests, images, made=made, failed=failed, seconds=round(seconds, 2), images_per_s=rate)


def present(files: Files) -> set[str]:
    """The images that are there."""
    return set(files.names(IMAGES, suffix=".png"))


def write_index(files: Files, rows: Sequence[Row]) -> None:
    """Write the index of rows whose images are there, with the MLLM's answers, which the images hold.

    Those that an earlier index has aren't read again.
    """
    known = answers_of(files.read(INDEX_FILE)) if files.exists(INDEX_FILE) else {}
    files.publish(INDEX_FILE, index_bytes([{**row, "answer": _answer(row, files=files, known=known)} for row in rows]))


def write_sheet(files: Files, rows: Sequence[Row]) -> None:
    """Show the first images on one page."""
    if rows:
        shown = [(row["prompt"], [Image.open(io.BytesIO(files.read(row["file"])))]) for row in rows[:SHEET_IMAGES]]
        buffer = io.BytesIO()
        contact_sheet(shown, columns=["image"], pairs_across=4).save(buffer, format="png")
        files.publish(SHEET_FILE, buffer.getvalue())


def json_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """Values as lines of JSON."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace")  # half a surrogate pair goes back to the escape it came in as


def answer_of(png: bytes) -> str:
    """The MLLM's answer that an image's text chunks hold."""
    with Image.open(io.BytesIO(png)) as image:
        return str(image.info.get("answer", ""))


def _answer(row: Row, *, files: Files, known: dict[str, str | None]) -> str | None:
    if row["settings"]["states"] == "prompt":
        return None
    return known.get(row["file"]) or answer_of(files.read(row["file"]))
