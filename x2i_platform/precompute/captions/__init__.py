"""Reads captions from text, tables, JSON, Parquet and tars, gzipped or not, in files, folders, patterns or `s3://`.

Invariants: every record of the input is yielded exactly once, in a fixed order (files by name, then by line), as a
normalised caption or with the reason why it isn't one; memory holds one line, row group or JSON value.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import pyarrow as pa

from x2i_platform.errors import InputError, X2IError, raising
from x2i_platform.precompute.captions.files import Found, ending_of, find_files
from x2i_platform.precompute.captions.json_documents import read_json
from x2i_platform.precompute.captions.json_values import read_json_lines
from x2i_platform.precompute.captions.kept import KeptRecords
from x2i_platform.precompute.captions.normal import normalised
from x2i_platform.precompute.captions.parquet import read_parquet
from x2i_platform.precompute.captions.records import (
    COLUMNS,
    MAX_CAPTION_CHARS,
    MAX_CHARS,
    PLAIN,
    SHOWN_CHARS,
    Reading,
    Record,
)
from x2i_platform.precompute.captions.tables import read_csv, read_tsv
from x2i_platform.precompute.captions.tar import read_tar
from x2i_platform.precompute.captions.text import read_text
from x2i_platform.streams import OUTSIDE, opened

__all__ = [
    "COLUMNS",
    "MAX_CAPTION_CHARS",
    "MAX_CHARS",
    "SHOWN_CHARS",
    "Captions",
    "Found",
    "KeptRecords",
    "Reading",
    "Record",
    "normalised",
    "read_captions",
]


@dataclass(frozen=True)
class Format:
    """How files of one ending are read, and the options that apply to them."""

    read: Callable[[io.BufferedReader, str, Reading], Iterator[Record]]
    takes: frozenset[str]
    """Names of the fields of `Reading` that apply."""


_LINES = Format(read_json_lines, frozenset({"column", "encoding"}))
_TABLE = frozenset({"column", "header", "delimiter", "quoted", "encoding"})
_TEXT = Format(read_text, _TABLE | {"per_file"})
FORMATS = {
    ".txt": _TEXT,
    ".caption": _TEXT,
    ".jsonl": _LINES,
    ".ndjson": _LINES,
    ".json": Format(read_json, frozenset({"column", "encoding"})),
    ".csv": Format(read_csv, _TABLE),
    ".tsv": Format(read_tsv, _TABLE),
    ".parquet": Format(read_parquet, frozenset({"column"})),
    ".tar": Format(read_tar, frozenset({"column"})),
}
"""Formats by ending, with or without .gz."""
OPTIONS = {
    "header": "--header and --no-header are",
    "delimiter": "--delimiter is",
    "quoted": "--quoted and --literal are",
    "encoding": "--encoding is",
    "per_file": "--per-file and --per-line are",
}


@dataclass(frozen=True)
class Captions:
    """A path of captions, how to read it, and a limit."""

    path: str
    reading: Reading = PLAIN
    limit: int | None = None

    @cached_property
    def found(self) -> Found:
        """The files of the path. Raises InputError if there are none."""
        return find_files(self.path, readable=FORMATS)

    def records(self) -> Iterator[Record]:
        """Yield all records, or the first `limit`.

        Raises InputError if there is no input or no caption column, if an option applies to none of the files, or if a
        file isn't what its name says.
        """
        _require_taken(self.reading, self.found, path=self.path)
        parts = (_read_file(name, self.reading, self.found) for name in self.found.files)
        return itertools.islice(itertools.chain.from_iterable(parts), self.limit)


def read_captions(path: str, reading: Reading = PLAIN, *, limit: int | None = None) -> Iterator[Record]:
    """Yield all records under a path, or the first `limit`. Raises like `Captions.records`."""
    return Captions(path, reading, limit).records()


def _read_file(source: str, reading: Reading, found: Found) -> Iterator[Record]:
    ending = ending_of(source)
    if reading.per_file is None and reading.delimiter is None:
        reading = replace(reading, per_file=ending == ".caption" or source in found.with_picture)
    with opened(source, what="captions file") as handle:
        try:
            with raising(InputError, f"captions file '{source}' can't be read", (*OUTSIDE, pa.ArrowException)):
                yield from FORMATS[ending].read(handle, source, reading)
        except UnicodeError as error:
            raise InputError(f"captions file '{source}' is not {reading.encoding or 'UTF-8'}: {error}") from None
        except X2IError:
            raise
        except Exception as error:  # the libraries raise all kinds of errors for a hostile file
            reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
            raise InputError(f"captions file '{source}' can't be read: {reason}") from error


def _require_taken(reading: Reading, found: Found, *, path: str) -> None:
    """Raise InputError for an option that applies to none of the files, because it would be silently ignored.

    Each reader checks the column itself.
    """
    endings = sorted({ending_of(name) for name in found.files})
    taken = frozenset().union(*(FORMATS[ending].takes for ending in endings))
    for name in OPTIONS:
        if getattr(reading, name) is not None and name not in taken:
            suited = ", ".join(ending for ending, each in FORMATS.items() if name in each.takes)
            raise InputError(f"{OPTIONS[name]} for {suited}; captions '{path}': {', '.join(endings)}")
