"""Captions out of CSV, TSV and Parquet: the right column, every row once, and no quote that swallows its neighbours."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from caption_records import read, written

from x2i_platform.captions import MAX_CAPTION_CHARS, MAX_LINE_BYTES
from x2i_platform.errors import InputError

CSV = (
    "\ufeffid, Caption ,note\r\n"
    "1,a red circle,x\r\n"
    '2,"two squares, one ""big""\r\non two lines",y\r\n'
    "\r\n"
    "4,,z\r\n"
    "5\r\n"
    '6,a sign that says "STOP" in red,\r\n'
    "7,café,\r\n"
)
CSV_RECORDS = [
    (2, "a red circle"),
    (3, 'two squares, one "big"\r\non two lines'),
    (5, "!empty line"),
    (6, "!empty line"),
    (7, "!only 1 columns; the caption is in column 2"),
    (8, 'a sign that says "STOP" in red'),
    (9, "café"),
]


def test_csv_with_a_mark_and_quoted_line_breaks(tmp_path: Path) -> None:
    assert read(written(tmp_path / "c.csv", CSV)) == CSV_RECORDS
    assert read(written(tmp_path / "c.csv.gz", gzip.compress(CSV.encode()))) == CSV_RECORDS
    assert read(tmp_path / "c.csv", limit=2) == CSV_RECORDS[:2]
    assert read(tmp_path / "c.csv", column="note")[0] == (2, "x")
    bad_byte = CSV.encode().replace("café".encode(), b"caf\xe9")
    assert read(written(tmp_path / "d.csv", bad_byte)) == [*CSV_RECORDS[:-1], (9, "!not UTF-8")]
    assert read(tmp_path / "d.csv", column="note")[-1] == (9, "!empty line")
    assert read(written(tmp_path / "mac.csv", "text\ra\rb\r")) == [(2, "a"), (3, "b")]
    assert read(written(tmp_path / "only.csv", "text\n")) == []
    assert read(written(tmp_path / "empty.csv", "")) == []


def test_a_long_csv_field_is_refused_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", f'text\na\n"{"x" * 200_000}"\nb\n')
    assert read(path) == [(2, "a"), (3, f"!caption of 200000 characters; at most {MAX_CAPTION_CHARS}"), (4, "b")]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (["a", '"left open', "b", "c"], 3),  # would swallow every record to the end of the file
        (["a", '"STOP" sign', "b"], 3),
        (["a", '"left open'] + ["x" * 1000] * 5000, 3),
    ],
)
def test_a_csv_whose_quotes_would_swallow_records_is_refused(tmp_path: Path, rows: list[str], line: int) -> None:
    path = written(tmp_path / "c.csv", "\n".join(["text", *rows]) + "\n")
    with pytest.raises(InputError, match=rf"c.csv', line {line}: .*quote"):
        read(path)


def test_an_endless_csv_line_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", b"text\na\n" + b"x" * (MAX_LINE_BYTES + 1))
    with pytest.raises(InputError, match=r"c.csv', line 3: longer than"):
        read(path)


def test_tsv_keeps_quotes_literally(tmp_path: Path) -> None:
    content = 'Prompt\tCategory\n"a red circle\tx\nsays "hi"\ty\n\n\tz\nlone\rreturn\tq\nshort\n'
    path = written(tmp_path / "c.tsv", b"\xef\xbb\xbf" + content.encode() + b"b\xffd\tx\n")
    assert read(path) == [
        (2, '"a red circle'),
        (3, 'says "hi"'),
        (4, "!empty line"),
        (5, "!empty line"),
        (6, "lone\rreturn"),
        (7, "short"),
        (8, "!not UTF-8 at byte 1 of the line"),
    ]
    assert read(path, column="Category")[-2] == (7, "!only 1 columns; the caption is in column 2")
    assert read(written(tmp_path / "empty.tsv", "")) == []
    with pytest.raises(InputError, match="its header is not UTF-8"):
        read(written(tmp_path / "bad.tsv", b"\xff\ttext\na\tb\n"))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["a red circle", None, " ", "x" * (MAX_CAPTION_CHARS + 1), "bad\0", "last"]
    texts = pa.array(values).cast(kind)
    table = pa.table({"id": list(range(6)), "Prompt": texts, "url": pa.array(["u"] * 6)})
    path = tmp_path / "c.parquet"
    pq.write_table(table, path, row_group_size=2)
    assert read(path) == [
        (1, "a red circle"),
        (2, "!caption is NoneType, not text"),
        (3, "!empty line"),
        (4, f"!caption of {MAX_CAPTION_CHARS + 1} characters; at most {MAX_CAPTION_CHARS}"),
        (5, "!caption holds a NUL or a lone surrogate, which is no text"),
        (6, "last"),
    ]
    assert read(path, column="url") == [(row, "u") for row in range(1, 7)]


def test_parquet_bytes_that_are_no_text_and_files_that_are_no_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"b\xffd", b"fine"])
    careless = pa.Array.from_buffers(pa.string(), 3, raw.buffers())  # not all of them UTF-8, and marked as text
    pq.write_table(pa.table({"text": careless}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == [(1, "ok"), (2, "!not UTF-8"), (3, "fine")]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "ints.parquet")
    with pytest.raises(InputError, match="column 'text' holds int64, not text"):
        read(tmp_path / "ints.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    for damaged in (b"", b"PAR1", whole[:-10], whole[:20]):
        with pytest.raises(InputError, match=r"damaged.parquet' can't be read"):
            read(written(tmp_path / "damaged.parquet", damaged))


def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"], "width": [1]}), tmp_path / "c.parquet")
    for path in (tmp_path / "c.parquet", written(tmp_path / "c.csv", "url,width\nx,1\n")):
        with pytest.raises(InputError, match=r"no column named caption, prompt, text; name it by --column; .*url, w"):
            read(path)
        with pytest.raises(InputError, match="no column 'caption'; its columns: url, width"):
            read(path, column="caption")
    strange = written(tmp_path / "d.csv", b"\xff\xfe,w\nx,1\n")
    with pytest.raises(InputError) as caught:
        read(strange)
    assert str(caught.value).encode(), "can be printed"
    with pytest.raises(InputError, match="is plain text and has no column 'x'"):
        read(written(tmp_path / "c.txt", "a\n"), column="x")
