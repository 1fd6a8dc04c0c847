"""Captions from wherever they lie: text, JSON Lines, CSV, TSV and Parquet, gzipped or not, folders, globs, `s3://`.

Invariant: every record of the input comes out exactly once, in a fixed order (files by name, then by line), as a
caption or as a reason why it isn't one.
"""

from __future__ import annotations

import csv

import io
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from x2i_platform.errors import InputError

SUFFIXES = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
COLUMNS = ("caption", "prompt", "text", "captions", "prompts", "texts")
"""Column names taken for the caption when none is named, best first; letter case doesn't matter."""
MAX_CAPTION_CHARS = 20_000
"""A longer caption is no caption; every text encoder here reads at most a few thousand characters."""
MAX_LINE_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Record:
    """One record of the input. `caption` is None where `reason` says why."""

    source: str
    line: int
    """Line of the file, or row of a Parquet file, counted from 1."""
    caption: str | None
    reason: str | None = None


def read_captions(path: str, *, column: str | None = None, limit: int | None = None) -> Iterator[Record]:
    """All records under a path, or the first `limit`. Raises InputError if there is no input or no caption column."""
    return itertools.islice(
        itertools.chain.from_iterable(_read_file(f, column=column) for f in find_files(path)), limit
    )


def find_files(path: str) -> list[str]:
    """The caption files under a path, sorted. Raises InputError if there are none."""
    try:
        fs, root = fsspec.core.url_to_fs(path)
        if "*" in root or "?" in root:
            found = [str(name) for name in fs.glob(root)]
        elif fs.isdir(root):
            found = [str(name) for name in fs.find(root)]
        else:
            found = [root] if fs.exists(root) else []
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"can't read captions '{path}': {error}") from None
    if not found:
        raise InputError(f"captions '{path}' not found: no such file, folder or match")
    known = sorted(fs.unstrip_protocol(name) for name in found if _suffix(name) in SUFFIXES)
    if not known:
        raise InputError(f"captions '{path}': no file ends in {', '.join(SUFFIXES)}, with or without .gz")
    return [name.removeprefix("file://") for name in known]


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def _read_file(source: str, *, column: str | None) -> Iterator[Record]:
    reader = {".txt": _read_text, ".jsonl": _read_json_lines, ".parquet": _read_parquet}.get(_suffix(source))
    try:
        with fsspec.open(source, "rb", compression="infer") as handle:
            yield from reader(handle, source, column) if reader else _read_delimited(handle, source, column)
    except (EOFError, OSError, zlib.error, pa.ArrowInvalid) as error:
        raise InputError(f"captions file '{source}' can't be read: {error}") from None


def _checked(source: str, line: int, value: Any) -> Record:
    """A record of any decoded value."""
    if not isinstance(value, str):
        return Record(source, line, None, f"caption is {type(value).__name__}, not text")
    caption = value.strip().removeprefix("\ufeff").strip()
    if not caption:
        return Record(source, line, None, "empty line")
    if len(caption) > MAX_CAPTION_CHARS:
        return Record(source, line, None, f"caption of {len(caption)} characters; at most {MAX_CAPTION_CHARS}")
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in caption):
        return Record(source, line, None, "caption holds a NUL or a lone surrogate, which is no text")
    return Record(source, line, caption)


def _decoded_lines(handle: IO[bytes], source: str) -> Iterator[tuple[int, str | Record]]:
    """Lines as text, or a finished bad record where a line is no UTF-8 or endless."""
    for number in itertools.count(1):
        raw = handle.readline(MAX_LINE_BYTES)
        if not raw:
            return
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, Record(source, number, None, f"line longer than {MAX_LINE_BYTES} bytes")
            continue
        try:
            yield number, raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield number, Record(source, number, None, f"not UTF-8 at byte {error.start} of the line")


def _read_text(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    if column:
        raise InputError(f"captions file '{source}' is plain text and has no column '{column}'")
    for number, line in _decoded_lines(handle, source):
        yield line if isinstance(line, Record) else _checked(source, number, line)


def _read_json_lines(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    for number, line in _decoded_lines(handle, source):
        if isinstance(line, Record):
            yield line
        elif not line.strip():
            yield Record(source, number, None, "empty line")
        else:
            yield _json_record(source, number, line, column)


def _json_record(source: str, number: int, line: str, column: str | None) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Record(source, number, None, f"not JSON: {error}")
    if isinstance(value, dict):
        key = _pick(list(value), column)
        if key is None:
            wanted = column or " or ".join(COLUMNS[:3])
            return Record(source, number, None, f"no key {wanted} among {', '.join(map(str, value)) or 'none'}")
        value = value[key]
    return _checked(source, number, value)


def _read_delimited(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    """CSV and TSV with a header line. A quoted field may span lines; a TSV has no quotes."""
    # surrogateescape keeps undecodable bytes visible, so that the row and not the file is refused.
    text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
    tabs = _suffix(source) == ".tsv"
    rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(text)
    try:
        header = next(rows, None)
        if header is None:
            return
        index = header.index(_require_column(header, column, source=source))
        for row in rows:
            yield _delimited_record(source, rows.line_num, row, index)
    except csv.Error as error:
        raise InputError(f"captions file '{source}', line {rows.line_num}: {error}") from None


def _delimited_record(source: str, line: int, row: list[str], index: int) -> Record:
    if not any(row):
        return Record(source, line, None, "empty line")
    if index >= len(row):
        return Record(source, line, None, f"only {len(row)} columns; the caption is in column {index + 1}")
    if any("\udc80" <= char <= "\udcff" for char in row[index]):
        return Record(source, line, None, "not UTF-8")
    return _checked(source, line, row[index])


def _read_parquet(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    parquet = pq.ParquetFile(handle)
    name = _require_column(parquet.schema_arrow.names, column, source=source)
    kind = parquet.schema_arrow.field(name).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise InputError(f"captions file '{source}': column '{name}' holds {kind}, not text")
    numbers = itertools.count(1)
    for batch in parquet.iter_batches(columns=[name]):
        for value in batch.column(0):
            number = next(numbers)
            try:
                yield _checked(source, number, value.as_py())
            except UnicodeDecodeError:
                yield Record(source, number, None, "not UTF-8")


def _require_column(names: list[str], column: str | None, *, source: str) -> str:
    found = _pick(names, column)
    if found is None:
        wanted = f"no column '{column}'" if column else f"no column named {', '.join(COLUMNS[:3])}; name it by --column"
        raise InputError(f"captions file '{source}' has {wanted}; its columns: {', '.join(names)}")
    return found


def _pick(names: list[str], column: str | None) -> str | None:
    """The named column, or the best known one."""
    if column is not None:
        return column if column in names else None
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[known] for known in COLUMNS if known in by_lower), None)
