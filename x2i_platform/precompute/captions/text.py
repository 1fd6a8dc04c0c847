"""Reads plain text: a caption per line or per file, or a table if a delimiter is given."""

from __future__ import annotations

import io
from collections.abc import Iterator

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.lines import TOO_LONG, numbered, text_of
from x2i_platform.precompute.captions.records import EMPTY, MAX_CHARS, Reading, Record, checked
from x2i_platform.precompute.captions.tables import read_tsv


def read_text(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Yield the records of a text file. Blank lines and blank files are skipped."""
    if reading.delimiter is not None:
        return read_tsv(handle, source, reading)
    if (reading.column, reading.header, reading.quoted) != (None, None, None):
        missing = f"column '{reading.column}'" if reading.column else "header and no quoted fields"
        raise InputError(
            f"captions file '{source}' is plain text and has no {missing}; --delimiter tab reads it as a table"
        )
    records = _whole(handle, source, reading) if reading.per_file else _lines(handle, source, reading)
    return (record for record in records if record.reason != EMPTY)


def _lines(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    for number, line in numbered(text_of(handle, source, reading)):
        yield Record(source, number, None, TOO_LONG) if line is None else checked(source, number, line)


def _whole(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    text = text_of(handle, source, reading).read(MAX_CHARS)
    too_long = f"file of {MAX_CHARS} characters or more, not one caption; see --per-line"
    yield Record(source, 1, None, too_long) if len(text) == MAX_CHARS else checked(source, 1, text)
