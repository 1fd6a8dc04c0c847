"""Writes one shard of one table and commits it.

Invariants: nothing is visible in the table's folder before the file is whole; if the shard is already committed, it
stays and the new file is dropped; memory holds one row group, not the shard.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from x2i_platform.digests import digest
from x2i_platform.errors import StoreError, raising
from x2i_platform.features.codec import Blob
from x2i_platform.features.files import OUTSIDE, Files
from x2i_platform.features.schema import BLOB_COLUMNS, Row, ids_digest, schema_of
from x2i_platform.features.store import Commit, FeatureStore

ROW_GROUP_BYTES = 64 * 1024**2


class ShardWriter:
    """Collects the rows of one shard. `open_shard` makes one and commits it."""

    def __init__(self, *, table: str, shard: int, parquet: pq.ParquetWriter) -> None:
        self.table, self.shard = table, shard
        self._parquet = parquet
        self._rows: list[Row] = []
        self._buffered = 0
        self.num_rows = 0
        self.ids: dict[str, None] = {}  # an ordered set: table `targets` has many rows per sample
        self.quarantined: list[Row] = []

    def add(self, row: Row) -> None:
        """Append one row. A full row group is written to disk."""
        self._rows.append(row)
        self._buffered += len(row.get("data", b""))
        self.num_rows += 1
        self.ids[row["sample_id"]] = None
        if self._buffered >= ROW_GROUP_BYTES:
            self.flush()

    def quarantine(self, sample: Row, *, reason: str) -> None:
        """Leave a sample out of this shard, for a reason."""
        self.quarantined.append({**sample, "table": self.table, "reason": reason})

    def flush(self) -> None:
        """Write the buffered rows as one row group."""
        if self._rows:
            rows = pa.Table.from_pylist(self._rows, schema=self._parquet.schema)
            with raising(StoreError, f"can't write shard {self.shard} of table {self.table}", OUTSIDE):
                self._parquet.write_table(rows)
        self._rows, self._buffered = [], 0


@contextmanager
def open_shard(store: FeatureStore, *, table: str, shard: int, optional: bool = False) -> Iterator[ShardWriter]:
    """Write a shard. It is committed if the block ends without an error, else dropped.

    `optional` adds the table's optional columns.
    """
    started = time.monotonic()
    files = store.files
    with files.scratch_file(".parquet") as scratch:
        with _parquet_writer(scratch, schema=schema_of(table, optional=optional)) as parquet:
            writer = ShardWriter(table=table, shard=shard, parquet=parquet)
            yield writer
            writer.flush()
        with scratch.open("rb") as handle:
            sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        commit = Commit(
            table=table,
            shard=shard,
            file=f"{table}/{shard:06d}-{sha256[:12]}.parquet",
            sha256=sha256,
            num_bytes=scratch.stat().st_size,
            rows=writer.num_rows,
            samples=len(writer.ids),
            ids_digest=ids_digest(list(writer.ids)),
            quarantined=tuple(row["sample_id"] for row in writer.quarantined),
            committed_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 3),
            fingerprint=digest(store.fingerprint),
        )
        _publish(files, scratch, commit=commit, quarantined=writer.quarantined)


def publish_quarantine(files: Files, rows: Sequence[Row], *, name: str) -> None:
    """Write quarantined rows as JSON Lines. The name depends on the input, so a second run replaces the file."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # UTF-8 can't encode a lone surrogate; it is written as its JSON escape.
    files.publish(f"quarantine/{name}.jsonl", text.encode(errors="backslashreplace"))


def tensor_columns(blob: Blob) -> Row:
    """Return the columns of an encoded tensor."""
    return {"dtype": blob.dtype, "shape": list(blob.shape), "codec": blob.codec, "data": blob.data}


def _publish(files: Files, scratch: Path, *, commit: Commit, quarantined: Sequence[Row]) -> None:
    if files.exists(commit.record):
        return
    if quarantined:
        publish_quarantine(files, quarantined, name=f"{commit.table}-{commit.shard:06d}")
    files.adopt(scratch, commit.file)
    if files.publish_new(commit.record, commit.to_json()):
        return
    winner = Commit.from_json(files.read(commit.record), name=commit.record)
    if winner.file != commit.file:
        files.remove(commit.file)


@contextmanager
def _parquet_writer(path: Path, *, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    plain = [name for name in schema.names if name not in BLOB_COLUMNS]
    parquet = pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in plain if name in ("tap", "dtype", "codec", "sample_id", "source")],
        write_statistics=plain,
        write_page_checksum=True,
    )
    try:
        yield parquet
    finally:
        with raising(StoreError, f"can't write '{path}'", OUTSIDE):
            parquet.close()
