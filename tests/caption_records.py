"""Captions files written and read, for the tests of captions."""

from __future__ import annotations

from pathlib import Path

from x2i_platform.captions import Record, read_captions


def read(path: Path | str, *, column: str | None = None, limit: int | None = None) -> list[tuple[int, str]]:
    """Line and caption, or line and `!reason`, of every record."""
    return [(r.line, r.caption if r.caption is not None else f"!{r.reason}") for r in all_of(path, column, limit)]


def all_of(path: Path | str, column: str | None = None, limit: int | None = None) -> list[Record]:
    return list(read_captions(str(path), column=column, limit=limit))


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
