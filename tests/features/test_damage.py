"""A store that was damaged says which file, and what to do about it; nothing damaged is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.features.made_rows import folder_of, write_shard, write_tables
from x2i_platform.errors import StoreError
from x2i_platform.features.reader import read_table
from x2i_platform.features.schema import FEATURE_TABLES, MLLM, SAMPLES
from x2i_platform.features.store import Commit, FeatureStore, Fingerprint
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards

CAPTIONS = ["a red circle", "two green squares", "three blue triangles"]


def replace_in(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def spoil_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def spoil_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spoil_other_rows(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize("table", [SAMPLES, *FEATURE_TABLES])
@pytest.mark.parametrize(
    "spoil", [Path.unlink, spoil_cut, spoil_bit, spoil_other_rows, lambda path: path.write_bytes(b"")]
)
def test_a_spoilt_file_is_refused_by_name_with_the_way_out(
    store: FeatureStore, table: str, spoil: Callable[[Path], None]
) -> None:
    write_tables(store, 0, CAPTIONS)
    commit = store.commit_of(table, 0)
    assert commit
    spoil(folder_of(store) / commit.file)
    with pytest.raises(StoreError) as caught:
        read_table(store, commit)
    message = str(caught.value)
    assert commit.file in message
    assert "\n" not in message
    assert ("restore it from a copy" in message) == (table == SAMPLES)
    if table != SAMPLES:  # the way out that the message names is one
        assert f"delete 'commits/{table}/000000.json' and rerun precompute" in message
        (folder_of(store) / commit.record).unlink()
        write_shard(store, table, 0, CAPTIONS)
        store.publish_manifest()
        again = store.commit_of(table, 0)
        assert again
        assert read_table(store, again).num_rows == commit.rows


def test_no_flipped_bit_anywhere_goes_unnoticed(store: FeatureStore) -> None:
    write_shard(store, SAMPLES, 0, CAPTIONS)
    commit = store.commits()[0]
    path = folder_of(store) / commit.file
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        content = bytearray(whole)
        content[position] ^= 1 << position % 8
        path.write_bytes(content)
        with pytest.raises(StoreError):
            read_table(store, commit)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"rows": "three"}, "rows: "),
        ({"file": None}, "file: "),
        ({"quarantined": "abc"}, "quarantined: "),
        ({"shard": 3}, "it is that of 'commits/mllm/000003.json'"),
        ({"table": "text"}, "it is that of 'commits/text/000000.json'"),
    ],
)
def test_a_damaged_commit_record_is_refused_by_name(
    store: FeatureStore, fields: dict[str, object], problem: str
) -> None:
    write_tables(store, 0, CAPTIONS)
    record = folder_of(store) / "commits/mllm/000000.json"
    replace_in(record, **fields)
    assert_refused(store, "commit record 'commits/mllm/000000.json' is damaged", problem)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b"\0" * 100])
def test_a_record_that_is_no_record_is_refused_by_name(store: FeatureStore, content: bytes) -> None:
    write_tables(store, 0, CAPTIONS)
    for table, way_out in ((MLLM, "delete 'commits/mllm/000000.json'"), (SAMPLES, "restore it from a copy")):
        record = folder_of(store) / f"commits/{table}/000000.json"
        whole = record.read_bytes()
        record.write_bytes(content)
        assert_refused(store, f"commit record 'commits/{table}/000000.json' is damaged", way_out)
        record.write_bytes(whole)


def assert_refused(store: FeatureStore, *parts: str) -> None:
    for look in (store.manifest, store.publish_manifest):
        with pytest.raises(StoreError) as caught:
            look()
        assert all(part in str(caught.value) for part in parts), caught.value
        assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_version_may_say_more(store: FeatureStore) -> None:
    write_shard(store, MLLM, 0, CAPTIONS)
    record = folder_of(store) / "commits/mllm/000000.json"
    before = store.commits()
    replace_in(record, device="a GPU")
    assert store.commits() == before
    assert Commit.from_json(before[0].to_json(), name=before[0].record) == before[0]


def test_a_store_that_lost_records_is_not_whole(store: FeatureStore) -> None:
    for shard, caption in enumerate(["a red circle", "a blue square", "two green triangles"]):
        write_tables(store, shard, [caption])
    manifest = store.publish_manifest()
    assert store.whole_manifest() == manifest
    record = folder_of(store) / "commits" / MLLM / "000001.json"
    kept = record.read_bytes()
    record.unlink()
    with pytest.raises(
        StoreError, match=r"lacks commit records of shards 1 \(mllm\); rerun the same precompute command"
    ):
        store.whole_manifest()
    record.write_bytes(kept)
    plan = folder_of(store) / "commits" / SAMPLES / "000000.json"
    plan.rename(plan.with_suffix(".lost"))
    with pytest.raises(StoreError, match=r"shards 0 \(samples\); restore 'commits/samples' from a copy"):
        store.whole_manifest()
    plan.with_suffix(".lost").rename(plan)
    for table in (SAMPLES, *FEATURE_TABLES):  # the last shard, so no gap in the numbers tells
        (folder_of(store) / "commits" / table / "000002.json").unlink()
    with pytest.raises(
        StoreError, match=r"lacks 'commits/mllm/000002\.json' and 3 more, which 'manifest\.json' counts"
    ):
        store.whole_manifest()
    (folder_of(store) / "manifest.json").write_bytes(b'{"files": 3}')
    with pytest.raises(StoreError, match=r"manifest\.json' is damaged; rerun precompute"):
        store.whole_manifest()


def test_no_other_captions_are_planned_over_a_lost_plan(store: FeatureStore) -> None:
    for shard, caption in enumerate(["a red circle", "a blue square"]):
        write_tables(store, shard, [caption])
    (folder_of(store) / "commits" / SAMPLES / "000001.json").unlink()
    with pytest.raises(StoreError, match=r"lacks 'commits/samples/000001\.json'; restore it"):
        append_shards(store, [Record("c.txt", 1, "two green triangles")], samples_per_shard=1)


def test_another_recipe_adopts_no_shards_of_a_store_that_lost_its_header(
    store: FeatureStore, fingerprint: Fingerprint
) -> None:
    write_tables(store, 0, ["a red circle"])
    header = folder_of(store) / "store.json"
    kept = header.read_bytes()
    header.unlink()
    other = {**fingerprint, MLLM: {**fingerprint[MLLM], "more": 1}}
    for ask in (FeatureStore.check, FeatureStore.create):
        with pytest.raises(StoreError, match=r"was made by another recipe than this one; restore 'store\.json'"):
            ask(store.files.url, fingerprint=other)
        assert not header.exists()
    FeatureStore.create(store.files.url, fingerprint=fingerprint)
    assert header.read_bytes() == kept
    header.write_bytes(json.dumps({"format": 1, "fingerprint": other}).encode())  # as an older version would have
    with pytest.raises(StoreError, match="made by another recipe"):
        FeatureStore.open(store.files.url).commit_of(MLLM, 0)


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"", "is damaged: expected JSON with format and fingerprint"),
        (b"{", "is damaged"),
        (b"[1]", "is damaged"),
        (b'"text"', "is damaged"),
        (b"{}", "is damaged"),
        (b'{"format": 1}', "is damaged"),
        (b'{"format": 1, "fingerprint": [1]}', "is damaged"),
        (b'{"format": 1, "fingerprint": {"text": 3}}', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b'{"format": 2, "shards": []}', "has format 2; this version reads format 1"),
    ],
)
def test_a_damaged_or_newer_header_is_refused(
    store: FeatureStore, fingerprint: Fingerprint, header: bytes, problem: str
) -> None:
    (folder_of(store) / "store.json").write_bytes(header)
    for ask in (FeatureStore.open, lambda url: FeatureStore.create(url, fingerprint=fingerprint)):
        with pytest.raises(StoreError, match="store") as caught:
            ask(store.files.url)
        assert problem in str(caught.value)
    with pytest.raises(StoreError, match="store"):
        FeatureStore.check(store.files.url, fingerprint=fingerprint)
