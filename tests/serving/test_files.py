"""The store of uploads: whole files, each owner's own, within bounds, after a restart too."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from x2i_platform.serving import files
from x2i_platform.serving.files import FileStore, StoredFile, TooLargeError, new_id


def add(store: FileStore, content: bytes, *, owner: str = "me", filename: str = "a.jsonl") -> StoredFile:
    with store.incoming() as upload:
        for start in range(0, len(content), 3):
            upload.write(content[start : start + 3])
        return store.keep(upload, filename=filename, purpose="batch", owner=owner)


def test_a_file_is_whole_and_survives_a_restart(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    kept = add(store, b"one\ntwo\n")
    again = FileStore(tmp_path / "files")
    assert again.get(kept.id, owner="me") == kept
    assert again.path(kept).read_bytes() == b"one\ntwo\n"
    assert {**kept.body(), "id": "", "created_at": 0} == {
        **{"id": "", "object": "file", "filename": "a.jsonl", "purpose": "batch", "bytes": 8, "created_at": 0},
        **{"status": "processed", "expires_at": None},
    }


def test_nobody_sees_the_files_of_another(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    mine, other = add(store, b"a"), add(store, b"b", owner="other")
    assert store.get(other.id, owner="me") is None
    assert store.list(owner="me") == [mine]
    assert mine.id != other.id
    assert "owner" not in mine.body()


def test_an_upload_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_total_bytes=10)
    with pytest.raises(ConnectionError), store.incoming() as upload:
        upload.write(b"12345678")
        raise ConnectionError
    assert list(tmp_path.iterdir()) == []
    assert add(store, b"1234567890").bytes == 10  # its room was given back


def test_files_have_bounds_alone_and_together(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_file_bytes=6, max_total_bytes=9)
    with pytest.raises(TooLargeError, match="larger than 6 bytes"):
        add(store, b"1234567")
    kept = add(store, b"123456")
    with pytest.raises(TooLargeError, match="9 bytes together"):
        add(store, b"1234")
    with pytest.raises(TooLargeError), FileStore(tmp_path, max_total_bytes=9).incoming() as upload:
        upload.write(b"1234")
    store.delete(kept)
    add(store, b"1234")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\b.jsonl", "b.jsonl"),
        ("", "file"),
        ("a\x00\nb", "ab"),
        ("x" * 999, "x" * 255),
    ],
)
def test_a_name_is_a_word_and_no_path(tmp_path: Path, given: str, kept: str) -> None:
    record = add(FileStore(tmp_path), b"", filename=given)
    assert record.filename == kept
    assert {path.name for path in tmp_path.iterdir()} == {f"{record.id}.json", f"{record.id}.data"}


@pytest.mark.parametrize("file_id", ["../secret", "file-../../x", "file-", "", "file-" + "0" * 24])
def test_ids_are_looked_up_and_never_opened(tmp_path: Path, file_id: str) -> None:
    (tmp_path / "secret.data").write_bytes(b"s")
    assert FileStore(tmp_path / "files").get(file_id, owner="me") is None


def test_what_was_left_by_a_process_that_died_is_deleted_later(tmp_path: Path) -> None:
    kept = add(FileStore(tmp_path), b"a")
    orphan, fresh = tmp_path / f"{new_id()}.data", tmp_path / ".1.part"
    for path in (orphan, fresh):
        path.write_bytes(b"half")
    old = time.time() - files.LEFT_OVER_S - 1
    os.utime(orphan, (old, old))
    os.utime(tmp_path / f"{kept.id}.data", (old, old))
    (tmp_path / "file-odd.json").write_text(json.dumps({"id": "../x"}))
    (tmp_path / "file-bad.json").write_text("{")
    store = FileStore(tmp_path)
    assert not orphan.exists()
    assert fresh.exists()
    assert store.list(owner="me") == [kept]


def test_an_output_is_adopted_once(tmp_path: Path) -> None:
    store, file_id = FileStore(tmp_path / "files"), new_id()
    for content in (b"first", b"written again after a kill"):
        (tmp_path / "output").write_bytes(content)
        record = store.adopt(tmp_path / "output", file_id=file_id, filename="out.jsonl", owner="me")
        assert (record.id, record.purpose, record.bytes) == (file_id, "batch_output", 5)
    assert FileStore(tmp_path / "files").path(record).read_bytes() == b"first"
    assert store.list(owner="me", purpose="batch") == []
