"""Read the features of a store with pyarrow and numpy alone: no torch, and nothing of this package.

python examples/read_features.py STORE
python examples/read_features.py          # makes a small store first, in a temporary folder
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

CAPTIONS = ["a red circle left of a blue square", "two small green stars", "a large yellow heart", "a black cross"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def read_table(store: Path, table: str) -> Iterator[dict[str, Any]]:
    """Rows of a table. A file counts from the moment its commit record exists, so the records are read first."""
    for record in sorted((store / "commits" / table).glob("*.json")):
        yield from pq.read_table(store / json.loads(record.read_text())["file"]).to_pylist()


def decode(row: dict[str, Any]) -> np.ndarray:
    """The tensor of a row, as float32."""
    data, shape = np.frombuffer(row["data"], np.uint8), row["shape"]
    if row["codec"] == "int8_channel":
        # One int8 a number, and one float16 scale a channel.
        return data.view(np.int8).reshape(shape) * np.frombuffer(row["scale"], np.float16).astype(np.float32)
    # Codec `shuffle` stores the first bytes of all numbers, then all second bytes, and so on.
    numbers = np.ascontiguousarray(data.reshape(BYTES[row["dtype"]], -1).T)
    if row["dtype"] == "bfloat16":
        # numpy has no bfloat16. It is the upper half of a float32.
        return (numbers.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    values: np.ndarray = numbers.view(row["dtype"])
    return values.astype(np.float32).reshape(shape)


def show(store: Path) -> None:
    """Print what the store knows of each caption."""
    captions = {row["sample_id"]: row["caption"] for row in read_table(store, "samples")}
    for row in read_table(store, "mllm"):
        states_CSH = decode(row)  # layers + 1, tokens, hidden width
        print(f"{captions[row['sample_id']]!r}: MLLM states {states_CSH.shape}, mean {states_CSH.mean():.6f}")
        if row.get("answer"):
            print(f"    states of the MLLM's answer: {row['answer']!r}")
    print()
    first = next(read_table(store, "targets"))["sample_id"]
    print(f"the teacher's attention outputs for {captions[first]!r}:")
    for row in read_table(store, "targets"):
        if row["sample_id"] == first:
            z_TD = decode(row)  # tokens kept, channels; each token has mean 0 and deviation 1
            print(f"    {row['tap']}: {z_TD.shape}, mean {abs(z_TD.mean()):.2f}, deviation {z_TD.std():.2f}")


def show_made() -> None:
    """Print what a small store knows, made for this. Making one takes the package; reading it doesn't."""
    from small_store import make_store

    from pipelines import RECIPES
    from x2i_platform.recipes import load

    with tempfile.TemporaryDirectory() as folder:
        make_store(folder, recipe=load("mini", shipped=RECIPES), captions=CAPTIONS)
        show(Path(folder))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        show(Path(sys.argv[1]))
    else:
        show_made()
