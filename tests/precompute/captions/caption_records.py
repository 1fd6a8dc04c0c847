"""Captions files written and read, for the tests of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from x2i_platform.precompute.captions import Reading, Record, read_captions


def read(path: Path | str, *, limit: int | None = None, **reading: Any) -> list[tuple[int, str]]:
    """Line and caption, or line and `!reason`, of every record."""
    records = all_of(path, limit=limit, **reading)
    return [(record.line, shown(record)) for record in records]


def shown(record: Record) -> str:
    return record.caption if record.caption is not None else f"!{record.reason}"


def all_of(path: Path | str, *, limit: int | None = None, **reading: Any) -> list[Record]:
    return list(read_captions(str(path), Reading(**reading), limit=limit))


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
