"""The four tables, as Arrow schemas, and the pure functions that name and place a sample.

| table | one row is | tensor in `data` |
|---|---|---|
| `samples` | a caption and where it came from | - |
| `text` | a caption's T5 and CLIP outputs | `(T, E)`, and `pooled` `(P,)` |
| `mllm` | a caption's MLLM hidden states | `(C, S, H)`: layers + 1, valid tokens, width |
| `targets` | one tap of a caption's teacher | `(tokens kept, D)`, z-scored over D |

Some recipes add columns, listed in `OPTIONAL`:

- `mllm.states` other than `prompt`: table `mllm` has each sample's `caption` and, where the states are those of the
  MLLM's answer, that `answer`. The teacher of such a sample reads the answer instead of the caption.
- `teacher.canvas: estimate`: the first tap's row of a sample has the latents that the DiT saw, in `canvas`:
  `(image tokens, C)` in float16, encoded like `data`.

Rows of `targets` stay below 32 MB even at FLUX.1 size with every token kept, because each tap has its own row.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

Row = dict[str, Any]
"""One row of a table, by column."""

SAMPLES, TEXT, MLLM, TARGETS = "samples", "text", "mllm", "targets"
FEATURE_TABLES = (TEXT, MLLM, TARGETS)
STAGE_ORDER = (MLLM, TEXT, TARGETS)
"""The MLLM comes first, because the teacher may read its answers."""
FORMAT = 1

_SAMPLE_ID = pa.field("sample_id", pa.string(), nullable=False)
_TENSOR = [
    pa.field("dtype", pa.string(), nullable=False),
    pa.field("shape", pa.list_(pa.int32()), nullable=False),
    pa.field("codec", pa.string(), nullable=False),
    pa.field("data", pa.large_binary(), nullable=False),
]

SCHEMAS = {
    SAMPLES: pa.schema(
        [
            _SAMPLE_ID,
            pa.field("caption", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("line", pa.int64(), nullable=False),
        ]
    ),
    TEXT: pa.schema([_SAMPLE_ID, *_TENSOR, pa.field("pooled", pa.large_binary(), nullable=False)]),
    MLLM: pa.schema([_SAMPLE_ID, pa.field("num_tokens", pa.int32(), nullable=False), *_TENSOR]),
    TARGETS: pa.schema(
        [
            _SAMPLE_ID,
            pa.field("tap", pa.string(), nullable=False),
            pa.field("tap_idx", pa.int16(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("text_idx", pa.list_(pa.int32()), nullable=False),
            pa.field("image_idx", pa.list_(pa.int32()), nullable=False),
            *_TENSOR,
            pa.field("scale", pa.large_binary()),
        ]
    ),
}

OPTIONAL = {
    MLLM: [pa.field("caption", pa.string(), nullable=False), pa.field("answer", pa.string())],
    TARGETS: [pa.field("canvas", pa.large_binary())],
}

BLOB_COLUMNS = ("data", "pooled", "scale", "canvas")


def schema_of(table: str, *, optional: bool = False) -> pa.Schema:
    """Return the columns of a table's files, optional ones last."""
    return pa.schema([*SCHEMAS[table], *(OPTIONAL[table] if optional else ())])


def sample_id(caption: str) -> str:
    """Return a caption's id: 128 bits of the SHA-256 of its text, in hexadecimal. Equal captions are one sample."""
    return hashlib.sha256(caption.encode()).hexdigest()[:32]


def sample_seed(sample: str, *, seed: int, purpose: str) -> int:
    """Return a 63-bit seed that depends only on the sample, the recipe's seed and the purpose."""
    text = f"{purpose}:{seed}:{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def ids_digest(ids: list[str]) -> str:
    """Return the digest of a shard's list of ids."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
