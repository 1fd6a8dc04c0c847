"""Which files a path means: never hidden ones, what exists before what matches, one caption a file beside its image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.precompute.captions.caption_records import all_of, read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import Captions, read_captions

HIDDEN = (".x.txt", "._a.txt", "_scratch.txt", ".cache/b.txt", ".ipynb_checkpoints/a-checkpoint.txt", "_tmp/sub/c.txt")


def captions_of(path: Path | str, **reading: Any) -> list[str | None]:
    return [record.caption for record in all_of(path, **reading)]


def test_hidden_and_scratch_files_are_never_data(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.txt", *HIDDEN):
        written(tmp_path / name, f"{name}\n")
    assert captions_of(tmp_path) == ["a.txt", "sub/b.txt"]
    assert captions_of(tmp_path / "*.txt") == ["a.txt"]
    assert captions_of(tmp_path / "**" / "*.txt") == ["a.txt", "sub/b.txt"]
    assert captions_of(tmp_path / "*") == ["a.txt", "sub/b.txt"]
    assert Captions(str(tmp_path)).found.not_read == {}


def test_a_hidden_name_that_is_spelt_out_is_meant(tmp_path: Path) -> None:
    for name in HIDDEN:
        written(tmp_path / ".hidden" / "_root" / name, f"{name}\n")
    written(tmp_path / ".hidden" / "_root" / "a.txt", "a\n")
    assert captions_of(tmp_path / ".hidden" / "_root") == ["a"]
    assert captions_of(tmp_path / ".hidden" / "_root" / "*.txt") == ["a"]
    assert captions_of(tmp_path / ".hidden" / "_root" / "._a.txt") == ["._a.txt"]
    assert captions_of(tmp_path / ".hidden" / "_root" / ".cache" / "*.txt") == [".cache/b.txt"]
    assert captions_of(tmp_path / ".hidden" / "_root" / "_*.txt") == ["_scratch.txt"]


def test_files_that_are_not_read_are_counted_by_ending(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md", "c.MD", "d.txt.bz2", "LICENSE", "sub/e.png"):
        written(tmp_path / name, "text\n")
    found = Captions(str(tmp_path)).found
    assert found.not_read == {".bz2": 1, ".md": 2, ".png": 1, "no ending": 1}
    assert found.left_out() == "5 files not read: .bz2 (1), .md (2), .png (1), no ending (1)"
    assert Captions(str(tmp_path / "a.txt")).found.left_out() == ""
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match=r"no file ends in .*; 5 files not read: \.bz2 \(1\), "):
        read(tmp_path)


@pytest.mark.parametrize("name", ["set [v2] *best*", "run[1]", "what?", "[ab]"])
def test_a_name_that_exists_is_not_taken_for_a_pattern(tmp_path: Path, name: str) -> None:
    written(tmp_path / name / "a.txt", "inside\n")
    written(tmp_path / "b" / "a.txt", "elsewhere\n")
    written(tmp_path / f"{name}.txt", "file\n")
    assert captions_of(tmp_path / name) == ["inside"]
    assert captions_of(tmp_path / name / "a.txt") == ["inside"]
    assert captions_of(tmp_path / name / "*.txt") == ["inside"]
    assert captions_of(tmp_path / f"{name}.txt") == ["file"]


def test_brackets_are_a_pattern_where_nothing_has_that_name(tmp_path: Path) -> None:
    for name in ("shard-0.txt", "shard-1.txt", "shard-2.txt"):
        written(tmp_path / name, f"{name}\n")
    assert captions_of(tmp_path / "shard-[01].txt") == ["shard-0.txt", "shard-1.txt"]
    written(tmp_path / "shard-[01].txt", "itself\n")
    assert captions_of(tmp_path / "shard-[01].txt") == ["itself"]


@pytest.mark.parametrize("path", ["", " ", "\t\n"])
def test_an_empty_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    written(tmp_path / "other.txt", "a\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--captions is empty"):
        read(path)


HEADS = "masterpiece, a red circle,\n\nsoft light from the left\n"
ONE = "masterpiece, a red circle, soft light from the left"


def test_a_text_file_beside_an_image_of_its_name_is_one_caption(tmp_path: Path) -> None:
    for name in ("img0.txt", "img1.txt", "sub/img2.txt", "img3.jpg.txt", "v1.0.txt"):
        written(tmp_path / name, HEADS)
    for name in ("img0.png", "img1.JPG", "sub/img2.webp", "img3.jpg", "v1.0.png"):
        written(tmp_path / name, b"no matter")
    written(tmp_path / "list.txt", "one\ntwo\n")
    assert captions_of(tmp_path) == [ONE, ONE, ONE, "one", "two", ONE, ONE]
    assert [record.line for record in all_of(tmp_path)] == [1, 1, 1, 1, 2, 1, 1]
    assert captions_of(tmp_path / "img0.txt") == [ONE]
    assert captions_of(tmp_path / "img*.txt") == [ONE, ONE, ONE]
    assert captions_of(tmp_path / "img0.txt", per_file=False) == [
        "masterpiece, a red circle,",
        "soft light from the left",
    ]


def test_one_caption_a_file_by_an_option(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", HEADS)
    written(tmp_path / "b.txt", " \n")
    written(tmp_path / "c.caption", HEADS)
    assert captions_of(tmp_path) == ["masterpiece, a red circle,", "soft light from the left", ONE]
    assert captions_of(tmp_path, per_file=True) == [ONE, ONE]
    assert captions_of(tmp_path / "c.caption", per_file=False) == captions_of(tmp_path / "a.txt", per_file=False)


def test_an_image_of_another_folder_or_name_says_nothing(tmp_path: Path) -> None:
    for name in ("a.txt", "sub/b.txt"):
        written(tmp_path / name, "one\ntwo\n")
    for name in ("b.png", "sub/a.png", "aa.png"):
        written(tmp_path / name, b"no matter")
    assert captions_of(tmp_path) == ["one", "two", "one", "two"]


@pytest.mark.parametrize(
    ("name", "reading", "message"),
    [
        (
            "a.jsonl",
            {"header": False},
            r"--header and --no-header are for \.txt, .*\.csv, \.tsv; captions '.*': \.jsonl",
        ),
        ("a.txt", {"header": False}, r"is plain text and has no header .*; --delimiter tab reads it as a table"),
        ("a.txt", {"quoted": True}, r"is plain text and has no header and no quoted fields"),
        ("a.txt", {"delimiter": ";", "per_file": True}, r"--delimiter makes a text file a table"),
        ("a.json", {"delimiter": ";"}, r"--delimiter is for \.txt, \.caption, \.csv, \.tsv"),
        ("a.parquet", {"quoted": True}, r"--quoted and --literal are for \.txt, \.caption, \.csv, \.tsv"),
        ("a.tar", {"encoding": "utf-16"}, r"--encoding is for \.txt, "),
        ("a.csv", {"per_file": True}, r"--per-file and --per-line are for \.txt, \.caption"),
    ],
)
def test_an_option_that_no_file_takes_is_refused(
    tmp_path: Path, name: str, reading: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(written(tmp_path / name, b""), **reading)


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red circle\n")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to("nowhere")
    assert captions_of(tmp_path) == ["a red circle"]


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_what_a_library_raises_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.json":
        path.write_text("[" + "9" * 5000 + "]")
    else:
        pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["caption", "caption"]), path)
    with pytest.raises(InputError, match=r"captions file '.*' can't be read: ") as caught:
        list(read_captions(str(path)))
    assert "\n" not in str(caught.value)
