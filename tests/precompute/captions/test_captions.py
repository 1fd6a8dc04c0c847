"""Every record of every kind of captions file comes out once, as a caption or as the reason why it isn't one."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from tests.precompute.captions.caption_records import all_of, read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute import captions
from x2i_platform.precompute.captions import MAX_CAPTION_CHARS, MAX_CHARS, read_captions

TEXT = b"\n".join(
    [
        b"\xef\xbb\xbfa red circle",
        b"",
        b"  two green squares \r",
        b"na\xefve",
        b"nul\0",
        b"\t\xc2\xa0",
        "三个蓝色三角形".encode(),
        b'"quoted", with a comma\tand a tab',
        b"the last line has no end",
    ]
)
TEXT_RECORDS = [
    (1, "a red circle"),
    (3, "two green squares"),
    (4, "!caption holds byte 0xef, which can't be decoded; see --encoding"),
    (5, "!caption holds a NUL or a lone surrogate, which is no text"),
    (7, "三个蓝色三角形"),
    (8, '"quoted", with a comma and a tab'),
    (9, "the last line has no end"),
]


def test_text(tmp_path: Path) -> None:
    path = written(tmp_path / "captions.txt", TEXT)
    assert read(path) == TEXT_RECORDS
    assert {record.source for record in all_of(path)} == {str(path)}
    assert read(path, limit=4) == TEXT_RECORDS[:4]
    assert read(path, limit=0) == []
    assert read(path, limit=99) == TEXT_RECORDS
    assert read(written(tmp_path / "empty.txt", b"")) == []


@pytest.mark.parametrize("name", ["captions.txt.gz", "CAPTIONS.TXT.GZ"])
def test_gzipped_text(tmp_path: Path, name: str) -> None:
    # Two members, as `cat a.gz b.gz` makes them.
    assert read(written(tmp_path / name, gzip.compress(TEXT[:40]) + gzip.compress(TEXT[40:]))) == TEXT_RECORDS


def test_a_truncated_or_damaged_gzip_is_refused_by_name(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"caption %d\n" % i for i in range(5000)))
    wrong_sum = whole[:-8] + b"\1" * 8
    for content in (whole[:-20], whole[: len(whole) // 2], b"no gzip at all", whole + b"garbage", wrong_sum):
        path = written(tmp_path / "captions.txt.gz", content)
        with pytest.raises(InputError, match=r"captions.txt.gz' can't be read") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_an_endless_line_is_one_record_and_never_held_whole(tmp_path: Path) -> None:
    refused = f"!line longer than {MAX_CHARS} characters"
    lines = [b"first", b"x" * (2 * MAX_CHARS), b"x" * MAX_CHARS, b"y" * (MAX_CHARS - 1), b"last"]
    records = [
        (1, "first"),
        (2, refused),
        (3, refused),
        (4, f"!caption of {MAX_CHARS - 1} characters; at most {MAX_CAPTION_CHARS}"),
        (5, "last"),
    ]
    assert read(written(tmp_path / "a.txt", b"\n".join(lines))) == records
    assert read(written(tmp_path / "b.txt", b"first\n" + b"x" * MAX_CHARS)) == [(1, "first"), (2, refused)]
    assert read(written(tmp_path / "c.tsv", b"text\n" + b"\n".join(lines[:2] + lines[-1:]))) == [
        (2, "first"),
        (3, refused),
        (4, "last"),
    ]
    bomb = gzip.compress(b"first\n" + bytes(12 * MAX_CHARS) + b"\nlast\n")
    path = written(tmp_path / "d.txt.gz", bomb)
    tracemalloc.start()
    try:
        assert read(path) == [(1, "first"), (2, refused), (3, "last")]
        assert tracemalloc.get_traced_memory()[1] < 6 * MAX_CHARS
    finally:
        tracemalloc.stop()


JSON_LINES = [
    ('{"caption": "a red circle", "id": 1}', "a red circle"),
    ('{"id": 2, "Prompt": " two squares "}', "two squares"),
    ('"a bare string"', "a bare string"),
    ('{"text": "a", "prompt": "the better column"}', "the better column"),
    ("", ""),
    (" \t", ""),
    ('{"caption": "cut', "!not JSON"),
    ('{"caption": 3}', "!caption is a number, not text"),
    ('{"caption": null}', "!caption is null, not text"),
    ('{"captions": ["the first of two"]}', "the first of two"),
    ("[1]", "!caption is a number, not text"),
    ("[]", "!list without a caption"),
    ('{"caption": ""}', "!empty caption"),
    ('{"caption": "\\u0000"}', "!caption holds a NUL"),
    ('{"caption": "half \\ud83d a pair"}', "!caption holds a NUL or a lone surrogate"),
    ('{"caption": "whole pair \\ud83d\\ude00"}', "whole pair 😀"),
    ('{"caption": "two\\nlines"}', "two lines"),
    ('{"other": "x", "third": "y"}', "!no key caption or prompt or text among other, third"),
    ('{"\\ud800": "x"}', "!no key caption or prompt or text among \\ud800"),
    ("{}", "!no key caption or prompt or text among none"),
    ("[" * 100_000, "!not JSON"),
    ("9" * 5000, "!not JSON"),
]


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines(tmp_path: Path, packed: bool) -> None:
    content = b"\xef\xbb\xbf" + "\n".join(line for line, _ in JSON_LINES).encode() + b"\n\xff\n"
    path = written(tmp_path / f"c.jsonl{'.gz' * packed}", gzip.compress(content) if packed else content)
    records = read(path)
    expected = [(number, wanted) for number, (_, wanted) in enumerate(JSON_LINES, 1) if wanted]
    assert [line for line, _ in records] == [*(line for line, _ in expected), len(JSON_LINES) + 1]
    for (line, found), (_, wanted) in zip(records, expected, strict=False):
        assert found.startswith(wanted), line
        assert wanted.startswith("!") or found == wanted
    assert records[-1][1] == "!not JSON: Expecting value: line 1 column 1 (char 0)"


def test_a_named_json_key_is_taken_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", '{"caption": "a", "de": "ein Kreis"}\n{"caption": "b"}\n')
    assert read(path, column="de") == [(1, "ein Kreis"), (2, "!no key de among caption")]


def test_folders_and_globs_read_every_file_once_in_order_of_name(tmp_path: Path) -> None:
    folder = tmp_path / "some [odd] folder"
    written(folder / "b.txt", "third\n")
    written(folder / "a.txt.gz", gzip.compress(b"first\nsecond\n"))
    written(folder / "sub" / "c.jsonl", '{"prompt": "fourth"}\n')
    written(folder / "readme.md", "no captions")
    written(folder / "packed.txt.bz2", bz2.compress(b"no captions"))
    records = all_of(folder)
    assert [record.caption for record in records] == ["first", "second", "third", "fourth"]
    assert [Path(record.source).name for record in records] == ["a.txt.gz", "a.txt.gz", "b.txt", "c.jsonl"]
    assert [record.line for record in records] == [1, 2, 1, 1]
    assert read(folder, limit=3) == [(1, "first"), (2, "second"), (1, "third")]
    plain = tmp_path / "plain"
    for name in ("x1.txt", "x2.txt", "y1.txt"):
        written(plain / name, f"{name}\n")
    assert read(plain / "x*.txt") == [(1, "x1.txt"), (1, "x2.txt")]
    assert read(plain / "?1.txt") == [(1, "x1.txt"), (1, "y1.txt")]
    assert read(tmp_path / "**" / "y1.txt") == [(1, "y1.txt")]
    assert read(f"file://{plain}/x1.txt") == [(1, "x1.txt")]


def test_what_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    written(tmp_path / "captions.md", "a\n")
    cases: list[tuple[Path | str, str]] = [
        (tmp_path / "no.txt", "not found: no such file, folder or match"),
        (tmp_path / "*.txt", "not found: no such file, folder or match"),
        (tmp_path / "nothing", "not found"),
        (
            tmp_path / "captions.md",
            "no file ends in .txt, .caption, .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .tar, with or without .gz",
        ),
        ("nosuch://bucket/captions.txt", "can't read captions 'nosuch://bucket/captions.txt'"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message.replace("*", r"\*")) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone.txt")
    written(tmp_path / "z.txt", "a\n")
    with pytest.raises(InputError, match=r"dangling.txt' can't be read"):
        read(tmp_path / "*.txt")


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(f"{tmp_path}/caf\udce9.txt").write_text("a\n")
    with pytest.raises(InputError, match="its name is not UTF-8") as caught:
        read(tmp_path)
    assert str(caught.value).encode(), "can be printed"


def test_a_vanishing_file_is_an_error_not_a_gap(tmp_path: Path) -> None:
    written(tmp_path / "a.txt", "a\n")
    second = written(tmp_path / "b.txt", "b\n")
    records = read_captions(str(tmp_path))
    assert next(records).caption == "a"
    second.unlink()
    with pytest.raises(InputError, match=r"b.txt' can't be read"):
        list(records)


def test_reasons_fit_a_line(tmp_path: Path) -> None:
    wide = {f"key {i}": i for i in range(10_000)}
    (record,) = all_of(written(tmp_path / "c.jsonl", json.dumps(wide)))
    assert record.reason
    assert len(record.reason) < 2 * captions.SHOWN_CHARS
