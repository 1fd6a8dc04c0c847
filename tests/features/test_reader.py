"""What was computed comes back exactly, through us, and through tools that don't know us."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.features.made_rows import committed, rows_of, write_shard, write_tables
from x2i_platform.errors import StoreError
from x2i_platform.features.codec import Blob, decode
from x2i_platform.features.reader import ShardReader, read_samples, read_text
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, sample_id
from x2i_platform.features.store import Commit, FeatureStore

CAPTIONS = ["a red circle", "two", "three small blue triangles"]


def commit_of(store: FeatureStore, table: str) -> Commit:
    commit = store.commit_of(table, 0)
    assert commit
    return commit


def reader_of(store: FeatureStore) -> ShardReader:
    return ShardReader(store, mllm=commit_of(store, MLLM), targets=commit_of(store, TARGETS))


def test_a_sample_comes_back_as_it_was_computed(store: FeatureStore) -> None:
    write_tables(store, 0, CAPTIONS)
    reader = reader_of(store)
    for caption in reversed(CAPTIONS):
        (states,) = rows_of(MLLM, caption)
        sample = reader.sample(sample_id(caption))
        assert sample.sample_id == sample_id(caption)
        assert sample.seed == 7
        assert sample.states_CSH.dtype == torch.bfloat16
        assert sample.states_CSH.shape == (3, len(caption.split()), 8)
        assert torch.equal(
            sample.states_CSH, decode(Blob("bfloat16", tuple(states["shape"]), "shuffle", states["data"]))
        )
        assert list(sample.targets) == ["double.0.image", "double.0.text", "single.0"]
        for row in rows_of(TARGETS, caption):
            target = sample.targets[row["tap"]]
            assert (target.text_idx, target.image_idx) == (tuple(row["text_idx"]), tuple(row["image_idx"]))
            stored = Blob("int8", tuple(row["shape"]), "int8_channel", row["data"], row["scale"])
            assert torch.equal(target.values_TD, decode(stored))


def test_text_and_samples_come_back_as_they_were_computed(store: FeatureStore) -> None:
    write_tables(store, 0, CAPTIONS)
    text = read_text(store, commit_of(store, TEXT))
    assert list(text) == [sample_id(caption) for caption in CAPTIONS]
    for caption in CAPTIONS:
        (row,) = rows_of(TEXT, caption)
        found = text[sample_id(caption)]
        assert torch.equal(found.prompt_embeds_TE, decode(Blob("bfloat16", (4, 6), "shuffle", row["data"])))
        assert torch.equal(found.pooled_P, decode(Blob("bfloat16", (5,), "shuffle", row["pooled"])))
    assert [row["caption"] for row in read_samples(store, commit_of(store, SAMPLES))] == CAPTIONS


def test_tables_that_lack_different_samples_are_joined_by_id(store: FeatureStore) -> None:
    write_shard(store, MLLM, 0, CAPTIONS[1:])
    write_shard(store, TARGETS, 0, CAPTIONS[:2])
    reader = reader_of(store)
    assert reader.sample(sample_id("two")).states_CSH.shape[1] == 1
    with pytest.raises(KeyError):
        reader.sample(sample_id(CAPTIONS[0]))


def test_a_spoilt_file_is_refused_when_a_shard_is_opened(store: FeatureStore) -> None:
    write_tables(store, 0, CAPTIONS)
    path = Path(store.files.path(commit_of(store, TARGETS).file))
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{path.name}.* are not the \d+ that were committed"):
        reader_of(store)


WITHOUT_US = """
import json, pathlib, sys
import duckdb, numpy as np, pyarrow.parquet as pq

store = pathlib.Path(sys.argv[1])
manifest = json.loads((store / "manifest.json").read_text())
files = {table: [str(store / f["file"]) for f in manifest["files"] if f["file"].startswith(table + "/")]
         for table in ("samples", "text", "mllm", "targets")}

def shuffled(row, data="data"):
    size = {"bfloat16": 2, "float16": 2, "float32": 4, "int8": 1}[row["dtype"]]
    planes = np.frombuffer(row[data], np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T)

def bf16(row, data="data"):
    return (shuffled(row, data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)

out = {}
for row in pq.read_table(files["mllm"]).to_pylist():
    out[row["sample_id"] + ":states"] = bf16(row).reshape(row["shape"])
for row in pq.read_table(files["text"]).to_pylist():
    out[row["sample_id"] + ":text"] = bf16(row).reshape(row["shape"])
    out[row["sample_id"] + ":pooled"] = bf16(row, "pooled").ravel()

query = "select sample_id, tap, shape, data, scale, text_idx, image_idx from read_parquet(?)"
for sample, tap, shape, data, scale, text_idx, image_idx in duckdb.execute(query, [files["targets"]]).fetchall():
    values = np.frombuffer(data, np.int8).reshape(shape) * np.frombuffer(scale, np.float16).astype(np.float32)
    assert len(values) == len(text_idx) + len(image_idx)
    out[sample + ":" + tap] = values

joined = '''
    select caption, count(*) from read_parquet(?) s join read_parquet(?) m using (sample_id)
    join read_parquet(?) t using (sample_id) group by caption order by caption
'''
counts = duckdb.execute(joined, [files["samples"], files["mllm"], files["targets"]]).fetchall()
assert not any(name.startswith(("x2i_platform", "torch")) for name in sys.modules)
np.savez(sys.argv[2], **out)
print(json.dumps(counts))
"""


def test_pyarrow_duckdb_and_a_few_lines_of_numpy_read_a_store(store: FeatureStore, tmp_path: Path) -> None:
    write_tables(store, 0, CAPTIONS[:2])
    write_tables(store, 1, CAPTIONS[2:])
    store.publish_manifest()
    arrays = tmp_path / "arrays.npz"
    command = [sys.executable, "-I", "-c", WITHOUT_US, str(store.files.url), str(arrays)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[caption, 3] for caption in sorted(CAPTIONS)]
    found = np.load(arrays)
    for shard, captions in enumerate((CAPTIONS[:2], CAPTIONS[2:])):
        commits = {table: committed(store, table, shard) for table in (TEXT, MLLM, TARGETS)}
        reader = ShardReader(store, mllm=commits[MLLM], targets=commits[TARGETS])
        for caption in captions:
            sample, text = reader.sample(sample_id(caption)), read_text(store, commits[TEXT])[sample_id(caption)]
            assert np.array_equal(found[f"{sample.sample_id}:states"], sample.states_CSH.float().numpy())
            assert np.array_equal(found[f"{sample.sample_id}:text"], text.prompt_embeds_TE.float().numpy())
            assert np.array_equal(found[f"{sample.sample_id}:pooled"], text.pooled_P.float().numpy())
            for tap, target in sample.targets.items():
                assert np.array_equal(found[f"{sample.sample_id}:{tap}"], target.values_TD.numpy())
