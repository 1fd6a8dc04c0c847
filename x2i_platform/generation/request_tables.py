"""Rows of Parquet become the objects that lines of JSON would be: a column is a key, an empty cell is a key left out.

Bytes in a part of a prompt, as `{"type": "image", "bytes": …}` or as the image columns of Hugging Face datasets have
them, become data URLs. Memory holds one batch of rows; rows are numbered through all files of a folder.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from x2i_platform.errors import InputError, raising
from x2i_platform.generation.content import KEYS, Kind
from x2i_platform.streams import OUTSIDE, UNREACHABLE, opened

SUFFIX = ".parquet"
ROWS_AT_ONCE = 64
"""Rows may hold pictures and videos."""
PROMPTS = ("prompt", "messages")
WHOLE = ("id", "seed", "width", "height", "num_inference_steps")
"""Whole numbers: pandas writes them as floats where a cell is empty."""


def is_table(path: str) -> bool:
    """Whether requests are a Parquet file or a folder of such files."""
    return path.lower().endswith((SUFFIX, "/")) or ("://" not in path and Path(path).is_dir())


def read_rows(path: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """All rows with their numbers, from 1: an object, or why the row can't be one.

    Raises InputError for a file that can't be read or has no prompts.
    """
    number = 0
    for file in _files(path):
        with (
            opened(file, what="requests") as handle,
            raising(InputError, f"requests '{file}' can't be read", (*OUTSIDE, pa.ArrowException)),
        ):
            parquet = pq.ParquetFile(handle)
            _require_prompts(parquet.schema_arrow.names, file)
            for batch in parquet.iter_batches(batch_size=ROWS_AT_ONCE):
                for place in range(batch.num_rows):
                    number += 1
                    yield number, _row(batch, place)


def _files(path: str) -> list[str]:
    """The file itself, or the Parquet files directly in a folder, in the order of their names."""
    with raising(InputError, f"requests '{path}' can't be read", UNREACHABLE):
        fs, root = fsspec.core.url_to_fs(path)
        if not fs.isdir(root):
            return [path]
        found = sorted(name for name in fs.ls(root, detail=False) if name.lower().endswith(SUFFIX))
    if not found:
        raise InputError(f"requests '{path}' hold no file that ends in {SUFFIX}")
    return [str(fs.unstrip_protocol(name)) if "://" in path else str(name) for name in found]


def _require_prompts(names: list[str], file: str) -> None:
    if not set(PROMPTS) & set(names):
        raise InputError(
            f"requests '{file}' have no column 'prompt' or 'messages'; there are: {', '.join(names)[:200]}"
        )


def _row(batch: pa.RecordBatch, place: int) -> dict[str, Any] | str:
    try:
        [cells] = batch.slice(place, 1).to_pylist()
        row = {key: _cell(key, value) for key, value in cells.items() if not _is_empty(value)}
        if isinstance(row.get("messages"), str):
            row["messages"] = json.loads(row["messages"])
        return row
    except InputError as error:
        return str(error)
    except (ValueError, RecursionError) as error:  # text that is not UTF-8, JSON that is none
        return f"not JSON, or not UTF-8: {error}"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(key: str, value: Any) -> Any:
    if key in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return _plain(value, name=key)


def _plain(value: Any, *, name: str) -> Any:
    """The value as JSON has it. Raises InputError for bytes outside of a prompt's parts."""
    if isinstance(value, Mapping):
        kept = {key: one for key, one in value.items() if one is not None}
        kind = KEYS.get(str(kept.get("type")))
        kept = _with_media(kept, kind=kind) if kind and kind != "text" else kept
        return {key: _plain(one, name=f"{name}.{key}") for key, one in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name=name) for one in value]
    if isinstance(value, bytes):
        raise InputError(f"column '{name}' holds bytes; only parts of a prompt, such as an image's, may be bytes")
    return value if isinstance(value, str | bool | int | float) else str(value)


def _with_media(part: dict[str, Any], *, kind: Kind) -> dict[str, Any]:
    """A part whose bytes, if it has some, are a data URL."""
    key = part["type"]
    value = part.pop("bytes", part.get(key))
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        value = f"data:{kind}/octet-stream;base64,{base64.b64encode(value).decode()}"
    return {**part, key: value} if value is not None else part
