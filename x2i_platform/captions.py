"""Captions from wherever they lie: text, JSON Lines, CSV, TSV and Parquet, gzipped or not, folders, globs, `s3://`.

Invariant: every record of the input comes out exactly once, in a fixed order (files by name, then by line), as a
caption or as a reason why it isn't one.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

from x2i_platform.errors import InputError

COLUMNS = ("caption", "prompt", "text", "captions", "prompts", "texts")
"""Column names taken for the caption when none is named, best first; letter case doesn't matter."""
MAX_CAPTION_CHARS = 20_000
"""A longer caption is no caption; every text encoder here reads at most a few thousand characters."""
MAX_LINE_BYTES = 4 * 1024**2
"""A longer line is no line of captions, and is never held whole."""
SHOWN_CHARS = 200


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
        # A file that appeared since this process last looked must not be missed.
        fs, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
        if "*" in root or "?" in root:
            found = [str(name) for name in fs.glob(root)]
        elif fs.isdir(root):
            found = [str(name) for name in fs.find(root)]
        else:
            found = [root] if fs.exists(root) else []
    except (ValueError, ImportError, OSError, BotoCoreError) as error:
        raise InputError(f"can't read captions '{path}': {error}") from None
    if not found:
        raise InputError(f"captions '{path}' not found: no such file, folder or match")
    known = sorted(fs.unstrip_protocol(name) for name in found if _suffix(name) in _READERS)
    if not known:
        raise InputError(f"captions '{path}': no file ends in {', '.join(_READERS)}, with or without .gz")
    unnameable = next((name for name in known if _holds_surrogate(name)), None)
    if unnameable:
        raise InputError(f"captions file {unnameable!r}: its name is not UTF-8; rename it")
    return [name.removeprefix("file://") for name in known]


def _suffix(name: str) -> str:
    return PurePosixPath(name.lower().removesuffix(".gz")).suffix


def _read_file(source: str, *, column: str | None) -> Iterator[Record]:
    reader = _READERS[_suffix(source)]
    try:
        with fsspec.open(source, "rb", compression="infer") as handle:
            # An object store's handle reads lines of any length only; the buffer reads them piece by piece.
            yield from reader(io.BufferedReader(handle), source, column)
    except (EOFError, OSError, BotoCoreError, zlib.error, pa.ArrowException) as error:
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
    if "\0" in caption or _holds_surrogate(caption):
        return Record(source, line, None, "caption holds a NUL or a lone surrogate, which is no text")
    return Record(source, line, caption)


def _holds_surrogate(text: str) -> bool:
    """Half of a character pair: JSON can spell one, and what is no UTF-8 is read as one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


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
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
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
            return Record(source, number, None, f"no key {wanted} among {_listed(value)}")
        value = value[key]
    return _checked(source, number, value)


def _read_tsv(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    """A header line, then one record a line; quotes are text like any other."""
    index = None
    for number, line in _decoded_lines(handle, source):
        if index is not None:
            yield line if isinstance(line, Record) else _delimited_record(source, number, line.split("\t"), index)
        elif isinstance(line, Record):
            raise InputError(f"captions file '{source}': its header is {line.reason}")
        else:
            header = line.split("\t")
            index = header.index(_require_column(header, column, source=source))


def _read_csv(handle: IO[bytes], source: str, column: str | None) -> Iterator[Record]:
    """A header line, then records, whose quoted fields may span lines.

    A quote in the wrong place would swallow the records up to the next one, so the whole file is refused for it.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    rows = csv.reader(_csv_lines(handle, source), strict=True)
    line = 1
    try:
        header = next(rows, None)
        if header is None:
            return
        index = header.index(_require_column(header, column, source=source))
        line = rows.line_num + 1
        for row in rows:
            yield _delimited_record(source, line, row, index)
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"captions file '{source}', line {line}: {error}; is a quote misplaced?") from None


def _csv_lines(handle: IO[bytes], source: str) -> Iterator[str]:
    """Lines with their ends. Undecodable bytes stay as surrogates, so that the row and not the file is refused."""
    for number in itertools.count(1):
        raw = handle.readline(MAX_LINE_BYTES)
        if not raw:
            return
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raise InputError(f"captions file '{source}', line {number}: longer than {MAX_LINE_BYTES} bytes")
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        for piece in raw.splitlines(keepends=True):  # at a lone carriage return too, which also ends a CSV record
            yield piece.decode("utf-8", errors="surrogateescape")


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
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
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
        raise InputError(f"captions file '{source}' has {wanted}; its columns: {_listed(names)}")
    return found


def _listed(names: Iterable[str]) -> str:
    """Names for a message: not too many, and nothing in them that couldn't be printed."""
    text = ", ".join(names).encode(errors="backslashreplace").decode() or "none"
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _pick(names: list[str], column: str | None) -> str | None:
    """The named column, or the best known one."""
    if column is not None:
        return column if column in names else None
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    return next((by_lower[known] for known in COLUMNS if known in by_lower), None)


_READERS = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
