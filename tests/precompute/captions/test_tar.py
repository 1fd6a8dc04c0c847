"""Captions out of tars as webdataset writes them: a sample once, whatever lies around it; damage is never the end."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.precompute.captions.caption_records import all_of, read, shown, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import MAX_CHARS


def tarred(path: Path, members: list[tuple[str, bytes | str]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def places(path: Path, **reading: Any) -> list[tuple[str, str]]:
    return [(record.source.removeprefix(f"{path}/"), shown(record)) for record in all_of(path, **reading)]


def test_what_the_webdataset_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(3):
            writer.write({"__key__": f"{i:03}", "jpg": b"image", "txt": f"caption {i}", "json": {"caption": f"c{i}"}})
    assert places(path) == [("000", "caption 0"), ("001", "caption 1"), ("002", "caption 2")]
    assert [record.line for record in all_of(path)] == [1, 2, 3]
    assert (
        places(path, column="json.caption")
        == places(path, column="caption")
        == [*(("000", "c0"), ("001", "c1"), ("002", "c2"))]
    )
    for name in ("000.tar.gz", "000.tgz"):
        packed = written(tmp_path / name, gzip.compress(path.read_bytes()))
        assert [record.caption for record in all_of(packed)] == ["caption 0", "caption 1", "caption 2"]


MEMBERS: list[tuple[str, bytes | str]] = [
    ("./a/1.jpg", b"image"),
    ("./a/1.txt", "two lines\nof one caption\n"),
    ("./a/2.json", '{"prompts": ["one", "two"]}'),
    ("./a/._1.txt", "resource fork"),
    ("_scratch/3.txt", "scratch"),
    ("a/4.caption", "by another ending"),
    ("a/5.jpg", b"image alone"),
    ("a/6.v1.txt", "of several dots"),
    ("a/7.txt", b"caf\xe9"),
    ("a/8.json", "{cut"),
    ("a/9.txt", " \n"),
    ("b/9.txt", "of another folder"),
    ("b/9.txt", "of the same name again"),
]


def test_each_sample_is_read_once_with_its_key(tmp_path: Path) -> None:
    found = places(tarred(tmp_path / "c.tar", MEMBERS))
    assert found[:4] == [
        ("a/1", "two lines of one caption"),
        ("a/2", "one"),
        ("a/2", "two"),
        ("a/4", "by another ending"),
    ]
    assert found[4:6] == [("a/5", "!no .txt, .caption or .json among jpg"), ("a/6", "of several dots")]
    assert found[6][1].startswith("!.txt is not UTF-8: ")
    assert found[7][1].startswith("!.json is not JSON: ")
    assert found[8:] == [("a/9", "!empty caption"), ("b/9", "of another folder"), ("b/9", "of the same name again")]


def test_a_member_may_be_named(tmp_path: Path) -> None:
    path = tarred(tmp_path / "c.tar", [("1.en.txt", "a cup"), ("1.de.txt", "eine Tasse"), ("2.en.txt", "a ball")])
    assert [caption for _, caption in read(path, column="en.txt")] == ["a cup", "a ball"]
    assert [caption for _, caption in read(path, column="de.txt")] == ["eine Tasse", "!no de.txt among en.txt"]


def test_a_tar_that_is_damaged_or_cut_short_is_refused(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "c.tar", [(f"{i}.txt", f"caption {i}") for i in range(4)]).read_bytes()
    flipped = whole[:1024] + b"\xff" * 512 + whole[1536:]
    for content in (whole[:1300], whole[:2560], flipped, b"no tar at all", whole[:600]):
        with pytest.raises(InputError, match=r"d.tar' can't be read"):
            read(written(tmp_path / "d.tar", content))
    with pytest.raises(InputError, match=r"d.tar.gz' can't be read"):
        read(written(tmp_path / "d.tar.gz", gzip.compress(whole)[:-20]))


def test_tars_put_together_are_read_to_the_end(tmp_path: Path) -> None:
    first = tarred(tmp_path / "a.tar", [("1.txt", "one")]).read_bytes()
    second = tarred(tmp_path / "b.tar", [("2.txt", "two")]).read_bytes()
    assert read(written(tmp_path / "c.tar", first + second)) == [(1, "one"), (2, "two")]


def test_links_and_members_beyond_any_caption_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "c.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, size in (("2.txt", 3 * MAX_CHARS), ("3.jpg", 3 * MAX_CHARS)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(bytes(size)))
    tracemalloc.start()
    try:
        found = places(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_CHARS
    finally:
        tracemalloc.stop()
    too_large = f"!.txt is no plain file of at most {MAX_CHARS} bytes"
    assert found == [("1", too_large), ("2", too_large), ("3", "!no .txt, .caption or .json among jpg")]
