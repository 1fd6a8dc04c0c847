"""Reads committed shards as rows and tensors.

Invariants: only files named by a commit record are opened, and only if their hash matches; a damaged file raises an
error that names it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from x2i_platform.errors import StoreError
from x2i_platform.features.codec import DTYPES, Blob, decode
from x2i_platform.features.store import Commit, FeatureStore, cure


@dataclass(frozen=True)
class Target:
    """The teacher's z-scored attention outputs at one tap, `(tokens kept, D)`, text tokens before image tokens."""

    text_idx: tuple[int, ...]
    image_idx: tuple[int, ...]
    values_TD: Tensor


@dataclass(frozen=True)
class Sample:
    """One sample for distillation."""

    sample_id: str
    states_CSH: Tensor
    seed: int
    targets: dict[str, Target]
    """By tap name."""
    canvas: Tensor | None = None
    """The latents that the teacher saw, flat; None if they were the noise of this seed."""


@dataclass(frozen=True)
class TextRow:
    """T5 tokens `(T, E)` and CLIP's pooled vector `(P,)` of one caption."""

    prompt_embeds_TE: Tensor
    pooled_P: Tensor


@dataclass(frozen=True)
class TextSample:
    """One sample for the warm start."""

    sample_id: str
    states_CSH: Tensor
    text: TextRow


def read_table(store: FeatureStore, commit: Commit) -> pa.Table:
    """Read one committed shard. Raises StoreError that names the file if it is missing or its bytes have changed.

    The hash of 100 MB takes 0.1 s. Parquet's page checksums cost as much and miss damage in page headers and the
    footer.
    """
    try:
        data = store.files.read(commit.file)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _unusable(store, commit, "it is gone") from None
        raise
    if hashlib.sha256(data).hexdigest() != commit.sha256:
        raise _unusable(store, commit, f"its {len(data)} bytes are not the {commit.num_bytes} that were committed")
    return pq.read_table(pa.BufferReader(data))


def _unusable(store: FeatureStore, commit: Commit, reason: str) -> StoreError:
    return StoreError(f"committed file '{store.files.path(commit.file)}': {reason}{cure(commit.record)}")


def read_samples(store: FeatureStore, commit: Commit) -> list[dict[str, Any]]:
    """Read rows of table `samples`: sample_id, caption, source, line."""
    rows: list[dict[str, Any]] = read_table(store, commit).to_pylist()
    return rows


def read_text(store: FeatureStore, commit: Commit) -> dict[str, TextRow]:
    """Read a shard's T5 and CLIP outputs, by sample id."""
    return {row["sample_id"]: _text(row) for row in read_table(store, commit).to_pylist()}


def read_answers(store: FeatureStore, commit: Commit) -> dict[str, str | None]:
    """Read a shard's MLLM answers, by sample id; None for samples with prompt states."""
    table = read_table(store, commit)
    return dict(zip(table.column("sample_id").to_pylist(), table.column("answer").to_pylist(), strict=True))


class ShardReader:
    """One shard of tables `mllm` and `targets`. Rows are decoded when a sample is read."""

    def __init__(self, store: FeatureStore, *, mllm: Commit, targets: Commit) -> None:
        self._mllm = _Rows(read_table(store, mllm))
        self._targets = read_table(store, targets)
        self._target_rows: dict[str, list[int]] = {}
        for i, sample in enumerate(self._targets.column("sample_id").to_pylist()):
            self._target_rows.setdefault(sample, []).append(i)

    def sample(self, sample_id: str) -> Sample:
        """Decode one sample, which both tables must hold."""
        rows = self._target_rows[sample_id]
        taps = self._targets.slice(rows[0], len(rows)).to_pylist()
        return Sample(
            sample_id=sample_id,
            states_CSH=_tensor(self._mllm[sample_id]),
            seed=taps[0]["seed"],
            targets={row["tap"]: Target(tuple(row["text_idx"]), tuple(row["image_idx"]), _tensor(row)) for row in taps},
            canvas=_canvas(taps[0].get("canvas")),
        )


class TextShardReader:
    """One shard of tables `mllm` and `text`. Rows are decoded when a sample is read."""

    def __init__(self, store: FeatureStore, *, mllm: Commit, text: Commit) -> None:
        self._mllm, self._text = (_Rows(read_table(store, commit)) for commit in (mllm, text))

    def sample(self, sample_id: str) -> TextSample:
        """Decode one sample, which both tables must hold."""
        return TextSample(sample_id, _tensor(self._mllm[sample_id]), _text(self._text[sample_id]))


class _Rows:
    """A table with one row per sample, indexed by sample id."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._place = {sample: i for i, sample in enumerate(table.column("sample_id").to_pylist())}

    def __getitem__(self, sample_id: str) -> dict[str, Any]:
        row: dict[str, Any] = self._table.slice(self._place[sample_id], 1).to_pylist()[0]
        return row


def _text(row: dict[str, Any]) -> TextRow:
    # The pooled vector has the dtype of the row's first tensor.
    width = len(row["pooled"]) // DTYPES[row["dtype"]].itemsize
    return TextRow(_tensor(row), _tensor({**row, "data": row["pooled"], "shape": [width]}))


def _tensor(row: dict[str, Any]) -> Tensor:
    return decode(Blob(row["dtype"], tuple(row["shape"]), row["codec"], row["data"], row.get("scale")))


def _canvas(data: bytes | None) -> Tensor | None:
    return None if data is None else decode(Blob("float16", (len(data) // 2,), "shuffle", data))
