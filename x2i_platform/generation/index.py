"""The index of a folder of images: one Parquet file, a row an image, that DuckDB, polars and pyarrow read alike."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ANSWER = pa.struct([("temperature", pa.float64()), ("top_p", pa.float64()), ("max_tokens", pa.int64())])
_SETTINGS = pa.struct(
    [
        ("states", pa.string()),
        ("answer", _ANSWER),
        ("num_inference_steps", pa.int64()),
        ("guidance", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("line", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("media", pa.list_(pa.struct([("kind", pa.string()), ("value", pa.string())]))),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("settings", _SETTINGS, nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("extra", pa.string(), nullable=False),
    ]
)
"""Of a request: its line, id, words, media (each kind with its SHA-256, in order, and weights before what they belong
to), seed and settings; the digest of the model; the image's file below the folder; the MLLM's answer, if its states
conditioned the image; and as JSON the request's other keys."""


def index_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The Parquet file of rows that have the schema's keys; other keys are left out."""
    listed = [
        {
            **row,
            "id": None if row["id"] is None else str(row["id"]),
            "media": [{"kind": kind, "value": value} for kind, value in row["media"]],
            # Escapes keep half a surrogate pair, which Parquet's text can't hold.
            "extra": json.dumps(row["extra"] or {}),
        }
        for row in rows
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(listed, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def answers_of(index: bytes) -> dict[str, str | None]:
    """The answer of each file of an index."""
    table = pq.read_table(io.BytesIO(index), columns=["file", "answer"])
    return dict(zip(table["file"].to_pylist(), table["answer"].to_pylist(), strict=True))
