"""Reads one column of a Parquet file: text, UTF-8 bytes, lists of them, or a field of a struct."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.json_values import records_of, step
from x2i_platform.precompute.captions.records import COLUMNS, Reading, Record, listed


def read_parquet(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Yield the records row by row; memory holds one row group. A column of type null has only missing values."""
    parquet = pq.ParquetFile(handle)
    name, below = _column(parquet.schema_arrow.names, source, reading.column)
    kind = parquet.schema_arrow.field(name).type
    if not _may_hold_text(kind):
        raise InputError(f"captions file '{source}': column '{name}' holds {kind}, not text")
    numbers = itertools.count(1)
    for batch in parquet.iter_batches(columns=[name]):
        for row in batch.column(0):
            number = next(numbers)
            try:
                value = _decoded(row.as_py())
            except UnicodeDecodeError as error:
                yield Record(source, number, None, f"not UTF-8 at byte {error.start}")
            else:
                yield from records_of(source, number, value, below)


def _column(names: list[str], source: str, column: str | None) -> tuple[str, str | None]:
    """Return the column to read and the rest of the name, for fields below it."""
    if (found := step(names, column)) is not None:
        return found
    if column and column.isdecimal() and 1 <= int(column) <= len(names):
        return names[int(column) - 1], None
    wanted = f"no column '{column}'" if column else f"no column named {', '.join(COLUMNS[:3])}; name it by --column"
    raise InputError(f"captions file '{source}' has {wanted}; its columns: {listed(names)}")


def _may_hold_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _may_hold_text(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return _may_hold_text(kind.value_type)
    simple = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
    )
    return pa.types.is_struct(kind) or any(holds(kind) for holds in simple)


def _decoded(value: Any) -> Any:
    """Decode all bytes in a value to text."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list):
        return [_decoded(element) for element in value]
    return {key: _decoded(part) for key, part in value.items()} if isinstance(value, dict) else value
