"""Captions out of Parquet: text, bytes, lists and structs, row by row; a part without a value is no reason to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.precompute.captions.caption_records import read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import MAX_CAPTION_CHARS


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    values = ["a red circle", None, " ", "x" * (MAX_CAPTION_CHARS + 1), "bad\0", "last"]
    texts = pa.array(values).cast(kind)
    table = pa.table({"id": list(range(6)), "Prompt": texts, "url": pa.array(["u"] * 6)})
    path = tmp_path / "c.parquet"
    pq.write_table(table, path, row_group_size=2)
    assert read(path) == [
        (1, "a red circle"),
        (2, "!caption is null, not text"),
        (3, "!empty caption"),
        (4, f"!caption of {MAX_CAPTION_CHARS + 1} characters; at most {MAX_CAPTION_CHARS}"),
        (5, "!caption holds a NUL or a lone surrogate, which is no text"),
        (6, "last"),
    ]
    assert read(path, column="url") == [(row, "u") for row in range(1, 7)]


def test_parquet_bytes_that_are_no_text_and_files_that_are_no_parquet(tmp_path: Path) -> None:
    raw = pa.array([b"ok", b"b\xffd", b"fine"])
    careless = pa.Array.from_buffers(pa.string(), 3, raw.buffers())  # not all of them UTF-8, and marked as text
    pq.write_table(pa.table({"text": careless}), tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet") == [(1, "ok"), (2, "!not UTF-8 at byte 1"), (3, "fine")]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "ints.parquet")
    with pytest.raises(InputError, match="column 'text' holds int64, not text"):
        read(tmp_path / "ints.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    for damaged in (b"", b"PAR1", whole[:-10], whole[:20]):
        with pytest.raises(InputError, match=r"damaged.parquet' can't be read"):
            read(written(tmp_path / "damaged.parquet", damaged))


def stored(path: Path, kind: pa.DataType, values: list[Any], *, name: str = "caption") -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"id": list(range(len(values))), name: pa.array(values, kind)}), path)
    return path


def test_a_part_of_type_null_stops_no_folder(tmp_path: Path) -> None:
    stored(tmp_path / "set" / "part-0.parquet", pa.string(), ["one", None])
    stored(tmp_path / "set" / "part-1.parquet", pa.null(), [None])
    stored(tmp_path / "set" / "part-2.parquet", pa.null(), [])
    stored(tmp_path / "set" / "part-3.parquet", pa.string(), ["two"])
    null = "!caption is null, not text"
    assert read(tmp_path / "set") == [(1, "one"), (2, null), (1, null), (1, "two")]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_are_utf8_row_by_row(tmp_path: Path, kind: pa.DataType) -> None:
    path = stored(tmp_path / "c.parquet", kind, ["café".encode(), b"caf\xe9", None, b"last"])
    assert read(path) == [
        (1, "café"),
        (2, "!not UTF-8 at byte 3"),
        (3, "!caption is null, not text"),
        (4, "last"),
    ]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.binary())])
def test_each_element_of_a_list_is_a_caption(tmp_path: Path, kind: pa.DataType) -> None:
    path = stored(tmp_path / "c.parquet", kind, [["one", "two"], [], None, [None, "three"]], name="captions")
    null = "!caption is null, not text"
    assert read(path) == [(1, "one"), (1, "two"), (2, "!list without a caption"), (3, null), (4, null), (4, "three")]


def test_dots_name_a_field_of_a_struct_and_numbers_a_column(tmp_path: Path) -> None:
    kind = pa.struct({"en": pa.string(), "de": pa.list_(pa.string())})
    path = stored(tmp_path / "c.parquet", kind, [{"en": "a cup", "de": ["eine Tasse", "ein Becher"]}], name="texts")
    assert read(path, column="texts.en") == [(1, "a cup")]
    assert read(path, column="texts.de") == [(1, "eine Tasse"), (1, "ein Becher")]
    assert read(path) == [(1, "!no key caption or prompt or text among en, de; name it by --column")]
    plain = stored(tmp_path / "d.parquet", pa.string(), ["a cup"], name="TEXT.en")
    assert read(plain, column="TEXT.en") == [(1, "a cup")]
    assert read(plain, column="2") == [(1, "a cup")]
    with pytest.raises(InputError, match=r"no column '3'; its columns: id, TEXT\.en"):
        read(plain, column="3")
