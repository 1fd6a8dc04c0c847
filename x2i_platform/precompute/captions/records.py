"""Records of captions, and options for reading them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.normal import normalised

COLUMNS = ("caption", "prompt", "text", "captions", "prompts", "texts")
"""Column names tried if none is given, best first. Case doesn't matter."""
KNOWN_NAMES = " or ".join(COLUMNS[:3])
MAX_CAPTION_CHARS = 20_000
"""Longer captions are refused. The text encoders read at most a few thousand characters."""
MAX_CHARS = 4 * 1024**2
"""Longer lines and JSON values are refused and never held in memory as a whole."""
SHOWN_CHARS = 200
EMPTY = "empty caption"


@dataclass(frozen=True)
class Record:
    """One record of the input. If `caption` is None, `reason` says why."""

    source: str
    line: int
    """Line of the file, row of a Parquet file, element of a JSON document or member of a tar, counted from 1."""
    caption: str | None
    reason: str | None = None


@dataclass(frozen=True)
class Reading:
    """Options for reading. Raises InputError for an invalid delimiter, encoding or column."""

    column: str | None = None
    """Name of the column or key (`a.b` for a nested key), or a column's number, counted from 1."""
    header: bool | None = None
    """Whether a table's first line has the column names. None means yes, but then `column` can't be a number."""
    delimiter: str | None = None
    """Separator of a table's fields. It makes a text file a table."""
    quoted: bool | None = None
    """Whether quotes around a field are part of the format. None means yes for .csv and no for .tsv."""
    encoding: str | None = None
    """None means UTF-8."""
    per_file: bool | None = None
    """Whether a text file is one caption. None means yes for .caption, and for .txt beside an image of that name."""

    def __post_init__(self) -> None:
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise InputError(f"--delimiter {self.delimiter!r}: it must be one character, such as ';' or '|', or tab")
        if self.delimiter is not None and self.per_file is not None:
            raise InputError("--delimiter makes a text file a table; --per-file and --per-line say that it is none")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
            except (LookupError, ValueError):
                raise InputError(
                    f"--encoding {self.encoding!r} is not known; use one such as utf-16, cp1252 or gb18030"
                ) from None
        if self.column is not None and not self.column.strip():
            raise InputError("--column is empty; name a column or a key")


PLAIN = Reading()
"""No options."""


def checked(source: str, line: int, value: Any) -> Record:
    """Check and normalise a decoded value; return its record."""
    if not isinstance(value, str):
        return Record(source, line, None, f"caption is {kind_of(value)}, not text")
    if undecoded := next((char for char in value if "\udc80" <= char <= "\udcff"), None):
        byte = ord(undecoded) - 0xDC00
        return Record(source, line, None, f"caption holds byte 0x{byte:02x}, which can't be decoded; see --encoding")
    caption = normalised(value)
    if not caption:
        return Record(source, line, None, EMPTY)
    if len(caption) > MAX_CAPTION_CHARS:
        return Record(source, line, None, f"caption of {len(caption)} characters; at most {MAX_CAPTION_CHARS}")
    if "\0" in caption or holds_surrogate(caption):
        return Record(source, line, None, "caption holds a NUL or a lone surrogate, which is no text")
    return Record(source, line, caption)


def holds_surrogate(text: str) -> bool:
    """Return whether a text has a lone surrogate: JSON can contain one, and undecodable bytes become one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def kind_of(value: Any) -> str:
    """Return a value's type in JSON's terms."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    kinds |= dict.fromkeys((int, float, Decimal), "a number")
    return kinds.get(type(value), type(value).__name__)


def pick(names: Iterable[str], column: str | None) -> str | None:
    """Return the named column, or the best known name, or None."""
    names = list(names)
    if column is not None:
        return column if column in names else None
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[known] for known in COLUMNS if known in by_lower), None)


def listed(names: Iterable[str]) -> str:
    """Join names for a message: shortened, and with unprintable characters escaped."""
    text = ", ".join(names).encode(errors="backslashreplace").decode() or "none"
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
