"""A shard is committed once, by one writer, whole; a store made by another recipe is refused naming the fields."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.features.made_rows import folder_of, rows_of, write_shard, write_tables
from tests.features.together import die, meet, race, run_until_killed, then_die
from x2i_platform.errors import StoreError
from x2i_platform.features import files
from x2i_platform.features.reader import read_samples, read_table
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, TEXT, sample_id
from x2i_platform.features.store import FeatureStore, Fingerprint
from x2i_platform.features.writer import open_shard
from x2i_platform.files import sync

CAPTIONS = ["a red circle", "two green squares", "three blue triangles"]


def data_files(store: FeatureStore, table: str) -> list[str]:
    return sorted(f"{table}/{path.name}" for path in (folder_of(store) / table).glob("*"))


def committed_captions(store: FeatureStore) -> list[str]:
    return [row["caption"] for commit in store.commits([SAMPLES]) for row in read_samples(store, commit)]


def test_a_committed_shard_says_what_it_holds(store: FeatureStore) -> None:
    write_tables(store, 0, CAPTIONS)
    commit = store.commit_of(TARGETS, 0)
    assert commit
    file = folder_of(store) / commit.file
    assert (commit.rows, commit.samples, commit.quarantined) == (9, 3, ())
    assert commit.num_bytes == file.stat().st_size
    assert pq.read_table(file).num_rows == 9
    assert store.commit_of(TARGETS, 1) is None
    manifest = store.publish_manifest()
    assert manifest.complete_shards() == [0]
    summary = json.loads((folder_of(store) / "manifest.json").read_text())
    assert summary["digest"] == manifest.digest
    assert summary["tables"]["mllm"] == {"shards": 1, "samples": 3, "rows": 3, "bytes": summary["files"][2]["bytes"]}
    assert {entry["file"] for entry in summary["files"]} == {commit.file for commit in store.commits()}


def test_the_manifest_digest_changes_with_every_commit_and_not_with_who_reads(store: FeatureStore) -> None:
    digests = []
    for shard, caption in enumerate(CAPTIONS):
        write_tables(store, shard, [caption])
        digests.append(store.manifest().digest)
    assert len(set(digests)) == 3
    assert FeatureStore.open(store.files.url).manifest().digest == digests[-1]


def test_a_shard_counts_as_complete_only_with_every_table(store: FeatureStore) -> None:
    for table in (SAMPLES, TEXT, MLLM):
        write_shard(store, table, 0, CAPTIONS)
    assert store.manifest().complete_shards() == []
    write_shard(store, TARGETS, 0, CAPTIONS)
    assert store.manifest().complete_shards() == [0]


def test_a_writer_that_raises_leaves_nothing(store: FeatureStore) -> None:
    with pytest.raises(KeyError), open_shard(store, table=SAMPLES, shard=0) as writer:
        writer.add(rows_of(SAMPLES, "a")[0])
        writer.flush()
        writer.quarantine({"sample_id": "x"}, reason="no")
        raise KeyError
    assert store.commits() == []
    assert [path.name for path in folder_of(store).rglob("*") if path.is_file()] == ["store.json"]


def test_the_second_of_two_writers_of_a_shard_changes_nothing(store: FeatureStore) -> None:
    with open_shard(store, table=SAMPLES, shard=0) as late:
        late.add(rows_of(SAMPLES, "the late one")[0])
        late.quarantine({"sample_id": "x"}, reason="late")
        write_shard(store, SAMPLES, 0, ["the early one"])
        before = (folder_of(store) / "commits/samples/000000.json").read_bytes()
    assert committed_captions(store) == ["the early one"]
    assert (folder_of(store) / "commits/samples/000000.json").read_bytes() == before
    assert data_files(store, SAMPLES) == [store.commits()[0].file]
    assert not (folder_of(store) / "quarantine").exists()


def commit_own(me: int, url: str, shards: int) -> list[bool]:
    """Write every shard with rows of this process; says which it was the one to commit."""
    store, won = FeatureStore.open(url), []
    for shard in range(shards):
        meet()
        write_shard(store, SAMPLES, shard, [f"shard {shard} of {me}, {number}" for number in range(me + 1)])
        commit = store.commit_of(SAMPLES, shard)
        won.append(commit is not None and commit.rows == me + 1)
    return won


def test_of_racing_processes_one_commits_each_shard_and_the_others_files_go(store: FeatureStore) -> None:
    won = race(commit_own, store.files.url, 20, count=4)
    commits = store.commits([SAMPLES])
    assert [commit.shard for commit in commits] == list(range(20))
    for commit in commits:
        assert [mine[commit.shard] for mine in won].count(True) == 1
        owners = {row["caption"].partition(",")[0] for row in read_samples(store, commit)}
        assert owners == {f"shard {commit.shard} of {commit.rows - 1}"}
    assert data_files(store, SAMPLES) == sorted(commit.file for commit in commits)
    assert list((folder_of(store) / ".tmp").iterdir()) == []


MOMENTS: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "while writing": (pq.ParquetWriter, "write_table", then_die(pq.ParquetWriter.write_table)),
    "before the file has its name": (files.Files, "adopt", die),
    "after the file has its name": (files.Files, "adopt", then_die(files.Files.adopt)),
    "while the record is written": (files, "sync", then_die(sync)),
}


def write_and_die(url: str, moment: str) -> None:
    owner, name, replacement = MOMENTS[moment]
    setattr(owner, name, replacement)
    write_shard(FeatureStore.open(url), MLLM, 0, ["a red circle of another run"])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_writer_leaves_no_row_and_a_second_run_commits(store: FeatureStore, moment: str) -> None:
    for table in (SAMPLES, TEXT, TARGETS):
        write_shard(store, table, 0, ["a red circle"])
    run_until_killed(write_and_die, store.files.url, moment)
    assert store.commit_of(MLLM, 0) is None
    assert store.manifest().complete_shards() == []
    assert store.publish_manifest().summary()["tables"][MLLM]["rows"] == 0

    write_shard(store, MLLM, 0, ["a red circle"])
    manifest = store.publish_manifest()
    commit = manifest.of(MLLM)[0]
    assert read_table(store, commit).column("sample_id").to_pylist() == [sample_id("a red circle")]
    assert manifest.complete_shards() == [0]
    # Who reads `mllm/*.parquet` without us must not meet the killed writer's row either.
    assert data_files(store, MLLM) == [commit.file]


def test_publishing_the_manifest_keeps_files_that_may_still_be_committed(store: FeatureStore) -> None:
    write_shard(store, MLLM, 0, CAPTIONS)
    waiting = folder_of(store) / "mllm/000001-0123456789ab.parquet"
    waiting.write_bytes(b"adopted, and its record is on the way")
    strange = folder_of(store) / "mllm/notes.parquet"
    strange.write_bytes(b"not ours")
    beaten = folder_of(store) / "mllm/000000-0123456789ab.parquet"
    beaten.write_bytes(b"of a writer that lost")
    store.publish_manifest()
    assert waiting.exists()
    assert strange.exists()
    assert not beaten.exists()
    assert len(data_files(store, MLLM)) == 3


def test_another_fingerprint_is_refused_naming_the_fields(store: FeatureStore, fingerprint: Fingerprint) -> None:
    url = store.files.url
    assert FeatureStore.create(url, fingerprint=fingerprint).fingerprint == fingerprint
    FeatureStore.check(url, fingerprint=fingerprint)
    other = {**fingerprint, "targets": {"teacher": "a", "codec": "bf16", "seed": 1}}
    for ask in (
        lambda: FeatureStore.create(url, fingerprint=other),
        lambda: FeatureStore.check(url, fingerprint=other),
        lambda: FeatureStore.open(url).require(other),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        assert "targets.codec: 'int8' in the store, 'bf16' asked for" in str(caught.value)
        assert "targets.seed: None in the store, 1 asked for" in str(caught.value)
        assert "text" not in str(caught.value).partition("recipe: ")[2]
    assert FeatureStore.open(url).fingerprint == fingerprint


def test_no_store_and_what_is_no_store(tmp_path: Path, fingerprint: Fingerprint) -> None:
    FeatureStore.check(str(tmp_path), fingerprint=fingerprint)
    assert list(tmp_path.iterdir()) == [], "a look writes nothing"
    for url in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(StoreError, match="holds no feature store; make one with `x2i-platform precompute`"):
            FeatureStore.open(str(url))
    (tmp_path / "notes.txt").write_text("a file")
    with pytest.raises(StoreError, match=r"notes\.txt.*Not a directory"):
        FeatureStore.create(str(tmp_path / "notes.txt"), fingerprint=fingerprint)


def test_quarantined_rows_are_written_with_their_reason_and_counted(store: FeatureStore) -> None:
    with open_shard(store, table=TEXT, shard=4) as writer:
        writer.add(rows_of(TEXT, "kept")[0])
        writer.quarantine({"sample_id": "ab", "caption": "half \ud83d", "source": "c.txt", "line": 3}, reason="odd")
    commit = store.commit_of(TEXT, 4)
    assert commit
    assert (commit.quarantined, commit.rows) == (("ab",), 1)
    assert store.manifest().quarantined() == {"ab"}
    line = (folder_of(store) / "quarantine/text-000004.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {
        **{"sample_id": "ab", "caption": "half \ud83d", "source": "c.txt", "line": 3},
        **{"table": "text", "reason": "odd"},
    }


def test_a_shard_of_many_row_groups_keeps_every_row(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x2i_platform.features.writer.ROW_GROUP_BYTES", 200)
    captions = [f"a red circle {number}" for number in range(40)]
    write_shard(store, MLLM, 0, captions)
    commit = store.commits()[0]
    assert pq.ParquetFile(folder_of(store) / commit.file).num_row_groups > 10
    assert read_table(store, commit).column("sample_id").to_pylist() == [sample_id(caption) for caption in captions]


def write_too_much(_: int, url: str) -> str:
    """The message for a shard above the size that the disk, for which a limit on files stands, can hold."""
    store = FeatureStore.open(url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    with pytest.raises(StoreError) as caught:
        write_shard(store, MLLM, 0, ["a red circle " * 50])
    return str(caught.value)


def test_a_full_disk_is_one_clear_error_and_nothing_is_committed(store: FeatureStore) -> None:
    (message,) = race(write_too_much, store.files.url, count=1)
    assert message.startswith("can't write")
    assert "\n" not in message
    assert store.commits() == []
    assert data_files(store, MLLM) == []
