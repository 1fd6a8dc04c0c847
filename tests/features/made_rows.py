"""Rows for every table, without a model: tensors that depend on the caption alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from x2i_platform.features.codec import encode_int8, encode_raw
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, Row, sample_id
from x2i_platform.features.store import Commit, FeatureStore
from x2i_platform.features.writer import open_shard, tensor_columns


def committed(store: FeatureStore, table: str, shard: int) -> Commit:
    """The commit of a shard that is there."""
    found = store.commit_of(table, shard)
    assert found is not None
    return found


def folder_of(store: FeatureStore) -> Path:
    """Where a local store lies."""
    return Path(store.files.url)


def write_shard(store: FeatureStore, table: str, shard: int, captions: Iterable[str]) -> None:
    """Commit a shard of these captions."""
    with open_shard(store, table=table, shard=shard) as writer:
        for row in (row for caption in captions for row in rows_of(table, caption)):
            writer.add(row)


def write_tables(store: FeatureStore, shard: int, captions: Iterable[str]) -> None:
    """Commit a shard in every table."""
    chosen = list(captions)
    for table in (SAMPLES, TEXT, MLLM, TARGETS):
        write_shard(store, table, shard, chosen)


def rows_of(table: str, caption: str) -> list[Row]:
    sample = sample_id(caption)
    generator = torch.Generator().manual_seed(int(sample[:8], 16))

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if table == SAMPLES:
        return [{"sample_id": sample, "caption": caption, "source": "c.txt", "line": 1}]
    if table == TEXT:
        columns = tensor_columns(encode_raw(noise(4, 6).bfloat16()))
        return [{"sample_id": sample, **columns, "pooled": encode_raw(noise(5).bfloat16()).data}]
    if table == MLLM:
        states = noise(3, len(caption.split()), 8).bfloat16()
        return [{"sample_id": sample, "num_tokens": states.shape[1], **tensor_columns(encode_raw(states))}]
    assert table == TARGETS
    rows = []
    for index, tap in enumerate(("double.0.image", "double.0.text", "single.0")):
        text, image = ([] if tap.endswith(".image") else [1, 3]), ([] if tap.endswith(".text") else [0, 2, 5])
        blob = encode_int8(noise(len(text) + len(image), 8))
        place = {"sample_id": sample, "tap": tap, "tap_idx": index, "seed": 7, "text_idx": text, "image_idx": image}
        rows.append({**place, **tensor_columns(blob), "scale": blob.scale})
    return rows
