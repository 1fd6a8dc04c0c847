"""Captions out of CSV and TSV: the right column, every row once, and no quote that swallows its neighbours."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.precompute.captions.caption_records import read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import MAX_CAPTION_CHARS, MAX_CHARS, Reading

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
    (3, 'two squares, one "big" on two lines'),
    (6, "!empty caption"),
    (7, "!1 field under a header of 3"),
    (8, 'a sign that says "STOP" in red'),
    (9, "café"),
]


def test_csv_with_a_mark_and_quoted_line_breaks(tmp_path: Path) -> None:
    assert read(written(tmp_path / "c.csv", CSV)) == CSV_RECORDS
    assert read(written(tmp_path / "c.csv.gz", gzip.compress(CSV.encode()))) == CSV_RECORDS
    assert read(tmp_path / "c.csv", limit=2) == CSV_RECORDS[:2]
    assert read(tmp_path / "c.csv", column="note")[0] == (2, "x")
    bad_byte = CSV.encode().replace("café".encode(), b"caf\xe9")
    assert read(written(tmp_path / "d.csv", bad_byte)) == [
        *CSV_RECORDS[:-1],
        (9, "!caption holds byte 0xe9, which can't be decoded; see --encoding"),
    ]
    assert read(tmp_path / "d.csv", column="note")[-1] == (9, "!empty caption")
    assert read(written(tmp_path / "mac.csv", "text\ra\rb\r")) == [(2, "a"), (3, "b")]
    assert read(written(tmp_path / "only.csv", "text\n")) == []
    assert read(written(tmp_path / "empty.csv", "")) == []


def test_a_long_csv_field_is_refused_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", f'text\na\n"{"x" * 200_000}"\nb\n')
    assert read(path) == [(2, "a"), (3, f"!caption of 200000 characters; at most {MAX_CAPTION_CHARS}"), (4, "b")]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ('"left open,x', 2),  # would swallow every record to the end of the file
        ('"STOP" sign,x', 2),
        ('a 5" pipe,x', 2),
        ('a "sign, red" house,x', 3),
        ('x, "a red, wet circle"', 3),  # a blank before the quote makes it text
    ],
)
def test_a_misplaced_quote_costs_its_line_and_no_other(tmp_path: Path, row: str, fields: int) -> None:
    for num_later in (3, 1100):
        assert_only_line_3_is_lost(tmp_path, row, fields, num_later)


def assert_only_line_3_is_lost(tmp_path: Path, row: str, fields: int, num_later: int) -> None:
    later = [f"caption {number},y" for number in range(num_later)]
    path = written(tmp_path / "c.csv", "\n".join(["text,id", "a,1", row, *later]) + "\n")
    (first, second), (third, reason), *others = read(path)
    assert (first, second, third) == (2, "a", 3)
    assert reason == f"!a misplaced quote; {fields} fields under a header of 2"
    assert others == [(number, f"caption {number - 4}") for number in range(4, num_later + 4)]


def test_other_counts_of_fields_than_the_headers_are_refused_with_both(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "text,id\na boat, red and blue,1\na boat,2\ncut here\n")
    records = [(2, "!3 fields under a header of 2"), (3, "a boat"), (4, "!1 field under a header of 2")]
    assert read(path) == records
    path = written(tmp_path / "c.tsv", "a boat\t1\na\tboat\t2\n")
    assert read(path, header=False, column="1")[1] == (2, "!3 fields beside a first line of 2")


def test_an_endless_csv_line_is_refused_alone(tmp_path: Path) -> None:
    refused = f"!line longer than {MAX_CHARS} characters"
    path = written(tmp_path / "c.csv", b"text\na\n" + b"x" * (MAX_CHARS + 1) + b"\nb\n")
    assert read(path) == [(2, "a"), (3, refused), (4, "b")]
    path = written(tmp_path / "d.csv", b'text\na\n"' + b"x" * (MAX_CHARS + 1) + b"\nb\n")
    assert read(path) == [(2, "a"), (3, refused), (4, "b")]


def test_tsv_keeps_quotes_literally(tmp_path: Path) -> None:
    content = 'Prompt\tCategory\n"a red circle\tx\nsays "hi"\ty\n\n\tz\nlone\tq\rreturn\tq\nshort\n"whole"\tw\n'
    path = written(tmp_path / "c.tsv", b"\xef\xbb\xbf" + content.encode() + b"b\xffd\tx\n")
    assert read(path) == [
        (2, '"a red circle'),
        (3, 'says "hi"'),
        (5, "!empty caption"),
        (6, "lone"),
        (7, "return"),
        (8, "!1 field under a header of 2"),
        (9, '"whole"'),
        (10, "!caption holds byte 0xff, which can't be decoded; see --encoding"),
    ]
    assert read(path, column="Category")[-1] == (10, "x")
    assert read(written(tmp_path / "empty.tsv", "")) == []
    with pytest.raises(InputError, match="its first line is not UTF-8; name its encoding by --encoding"):
        read(written(tmp_path / "bad.tsv", b"\xff\ttext\na\tb\n"))


QUOTED = 'text\tid\n"a ""red"" circle"\t1\n"two lines\nin one"\t2\n"a tab\tinside"\t3\nplain\t4\n'


def test_quoted_tsv_is_read_by_an_option_and_never_cut(tmp_path: Path) -> None:
    path = written(tmp_path / "c.tsv", QUOTED)
    captions = ['a "red" circle', "two lines in one", "a tab inside", "plain"]
    assert [caption for _, caption in read(path, quoted=True)] == captions
    literal = read(path, quoted=False)
    assert literal[0] == (2, '"a ""red"" circle"')
    assert [caption for _, caption in literal[1:]] == [
        *("!1 field under a header of 2", 'in one"', "!3 fields under a header of 2", "plain")
    ]


@pytest.mark.parametrize(
    ("line", "number"), [('"a ""red"" circle"\t1', 2), ('1\t"two lines\nin one"', 2), ('"a tab\tinside"\t3', 2)]
)
def test_a_tsv_that_looks_quoted_is_refused_and_says_which_options(tmp_path: Path, line: str, number: int) -> None:
    path = written(tmp_path / "c.tsv", f"text\tid\n{line}\n")
    with pytest.raises(InputError, match=rf"c.tsv', line {number}: a field looks quoted.* --quoted .* --literal"):
        read(path)


def test_tables_without_a_header_are_read_by_number(tmp_path: Path) -> None:
    path = written(tmp_path / "c.tsv", "a cup\thttp://x/0\na ball\thttp://x/1\n")
    assert read(path, header=False, column="1") == [(1, "a cup"), (2, "a ball")]
    assert read(path, header=False, column="2")[0] == (1, "http://x/0")
    assert read(path, header=True, column="1") == [(2, "a ball")]
    for column, message in [
        (None, "or say --no-header if its first line is a caption; its columns: a cup, http"),
        ("1", "to take column 1 say --no-header .*, --header if it holds names"),
        ("3", "no column '3'; its columns: a cup, http://x/0; say --no-header"),
    ]:
        with pytest.raises(InputError, match=message):
            read(path, column=column)
    for column in (None, "0", "3", "text"):
        with pytest.raises(InputError, match="without a header: name its column by number, --column 1 to 2"):
            read(path, header=False, column=column)
    assert read(written(tmp_path / "one.csv", "a cup\na ball\n"), header=False) == [(1, "a cup"), (2, "a ball")]


def test_a_column_whose_name_is_a_number_is_found_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path / "c.csv", "2,1\na,b\n")
    assert read(path, column="1") == [(2, "b")]


@pytest.mark.parametrize(("delimiter", "name"), [(";", "';'"), ("\t", "tab"), ("|", r"'\|'")])
def test_other_separators_are_read_by_an_option_that_the_refusal_names(
    tmp_path: Path, delimiter: str, name: str
) -> None:
    path = written(
        tmp_path / "c.csv", f'caption{delimiter}file\na red, wet cup{delimiter}1\n"a{delimiter}b"{delimiter}2\n'
    )
    assert read(path, delimiter=delimiter) == [(2, "a red, wet cup"), (3, f"a{' ' if name == 'tab' else delimiter}b")]
    with pytest.raises(InputError, match=f"its separator looks like {name}: use --delimiter"):
        read(path)


def test_a_text_file_is_a_table_where_its_separator_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "c.txt", "caption\turl\r\na red cup\thttp://x\r\n".encode("utf-16"))
    assert read(path, encoding="utf-16", delimiter="\t") == [(2, "a red cup")]
    assert read(path, encoding="utf-16") == [(1, "caption url"), (2, "a red cup http://x")]


@pytest.mark.parametrize("delimiter", ["", "::", '"', "\n", "\0"])
def test_what_is_no_delimiter_is_refused(tmp_path: Path, delimiter: str) -> None:
    with pytest.raises(InputError, match=r"--delimiter .* must be one character"):
        Reading(delimiter=delimiter)


def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["x"], "width": [1]}), tmp_path / "c.parquet")
    for path in (tmp_path / "c.parquet", written(tmp_path / "c.csv", "url,width\nx,1\n")):
        with pytest.raises(InputError, match=r"no column named caption, prompt, text; name it by --column.*; .*url, w"):
            read(path)
        with pytest.raises(InputError, match="no column 'caption'; its columns: url, width"):
            read(path, column="caption")
    strange = written(tmp_path / "d.csv", b"\xff\xfe,w\nx,1\n")
    with pytest.raises(InputError) as caught:
        read(strange)
    assert str(caught.value).encode(), "can be printed"
    with pytest.raises(InputError, match="is plain text and has no column 'x'"):
        read(written(tmp_path / "c.txt", "a\n"), column="x")
