"""Tables that nobody thought of: lines in = captions + duplicates + quarantined + blanks, and no caption is altered."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.precompute.captions.caption_records import all_of
from x2i_platform.precompute.captions import Captions, Reading, normalised
from x2i_platform.precompute.intake import Intake, unique_samples

BLANK, BAD = "blank", "bad"
"""Rows that aren't captions: nothing stands there, or nothing that could be used."""
PROPERTY = settings(max_examples=60, derandomize=True, deadline=None)


@dataclass(frozen=True)
class Row:
    """One row of a generated table."""

    text: str
    kind: str = "caption"


@dataclass(frozen=True)
class Form:
    """How a table is written down, independently of the readers, and what a row of it can't hold."""

    name: str
    write: Callable[[Path, Sequence[Row]], None]
    reading: dict[str, Any] = field(default_factory=dict)
    without: str = ""
    blanks: bool = True


def as_lines(render: Callable[[Row], bytes | str], *, ends: str = "\n", head: str = "") -> Callable[..., None]:
    """A row a line."""

    def write(path: Path, rows: Sequence[Row]) -> None:
        lines = [line if isinstance(line, bytes) else line.encode() for line in map(render, rows)]
        path.write_bytes(head.encode() + b"".join(line + ends.encode() for line in lines))

    return write


def as_csv(*, header: bool = True, encoding: str = "utf-8", **dialect: Any) -> Callable[..., None]:
    """By the csv library. A first row stands before the generated ones, as a first line tells the columns."""

    def write(path: Path, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, **dialect)
        if header:
            writer.writerow(["id", "caption"])
        for number, row in enumerate(rows):
            writer.writerow({BLANK: [], BAD: [number, "too", "many"]}.get(row.kind, [number, row.text]))
        path.write_bytes(text.getvalue().encode(encoding))

    return write


def as_json(wrap: Callable[[list[Any]], Any], *, ascii_only: bool) -> Callable[..., None]:
    def write(path: Path, rows: Sequence[Row]) -> None:
        values = [None if row.kind == BAD else row.text for row in rows]
        path.write_text(json.dumps(wrap(values), ensure_ascii=ascii_only, indent=1), encoding="utf-8")

    return write


def as_parquet(kind: pa.DataType) -> Callable[..., None]:
    def write(path: Path, rows: Sequence[Row]) -> None:
        values = pa.array([None if row.kind == BAD else row.text for row in rows], pa.string()).cast(kind)
        pq.write_table(pa.table({"caption": values}), path, row_group_size=3)

    return write


def as_tar(ending: str) -> Callable[..., None]:
    def write(path: Path, rows: Sequence[Row]) -> None:
        with webdataset.TarWriter(str(path)) as writer:
            for number, row in enumerate(rows):
                value = row.text if ending == "txt" else {"caption": row.text}
                sample = {"jpg": b"image"} | ({} if row.kind == BAD else {ending: value})
                writer.write({"__key__": f"{number:04}", **sample})

    return write


def text_line(row: Row) -> bytes | str:
    special: dict[str, bytes | str] = {BLANK: " \t", BAD: b"caf\xe9"}
    return special.get(row.kind, row.text)


def json_line(row: Row) -> bytes | str:
    return {BLANK: " ", BAD: '{"caption": '}.get(row.kind, json.dumps({"caption": row.text}))


def literal_tsv_line(row: Row) -> bytes | str:
    return {BLANK: "", BAD: "too\tmany\tfields"}.get(row.kind, f"{row.text}\t1")


FORMS = [
    Form("c.txt", as_lines(text_line), without="\r\n"),
    Form("dos.txt", as_lines(text_line, ends="\r\n", head="\ufeff"), without="\r\n"),
    Form("mac.txt", as_lines(text_line, ends="\r"), without="\r\n"),
    Form("c.jsonl", as_lines(json_line)),
    Form("c.ndjson", as_lines(json_line, ends="\r\n")),
    Form("c.csv", as_csv()),
    Form("all.csv", as_csv(quoting=csv.QUOTE_ALL, lineterminator="\n")),
    Form("16.csv", as_csv(encoding="utf-16"), {"encoding": "utf-16"}),
    Form("semicolon.csv", as_csv(delimiter=";"), {"delimiter": ";"}),
    Form("quoted.tsv", as_csv(delimiter="\t"), {"quoted": True}),
    Form("literal.tsv", as_lines(literal_tsv_line, head="caption\tid\n"), {"quoted": False}, without="\t\r\n"),
    Form("headless.csv", as_csv(header=False), {"header": False, "column": "2"}),
    Form("array.json", as_json(list, ascii_only=True), blanks=False),
    Form("coco.json", as_json(lambda v: {"images": [1], "annotations": v}, ascii_only=False), blanks=False),
    Form("c.parquet", as_parquet(pa.string()), blanks=False),
    Form("bytes.parquet", as_parquet(pa.large_binary()), blanks=False),
    Form("txt.tar", as_tar("txt"), blanks=False),
    Form("json.tar", as_tar("json"), blanks=False),
]


def rows_for(form: Form) -> st.SearchStrategy[list[Row]]:
    letters = st.characters(exclude_categories=["Cs"], exclude_characters="\0" + form.without)
    nasty = st.sampled_from([char for char in "\",;\t'\\ \n\r\u2028\u00a0aé" if char not in form.without])
    texts = st.text(letters | nasty, min_size=1, max_size=20).filter(normalised)
    others = [BAD, BLANK] if form.blanks else [BAD]
    return st.lists(texts.map(Row) | st.sampled_from([Row("", kind) for kind in others]), max_size=12)


@pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
@given(data=st.data())
@PROPERTY
def test_every_row_is_accounted_for_and_no_caption_is_altered(form: Form, data: st.DataObject) -> None:
    rows = [Row("the first"), *data.draw(rows_for(form)), Row("the last")]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form.name
        form.write(path, rows)
        intake = Intake()
        samples = list(unique_samples(Captions(str(path), Reading(**form.reading)).records(), intake=intake))
    written = [normalised(row.text) for row in rows if row.kind == "caption"]
    assert [sample["caption"] for sample in samples] == list(dict.fromkeys(written))
    assert len(intake.refused) == sum(row.kind == BAD for row in rows)
    blanks = sum(row.kind == BLANK for row in rows)
    assert len(rows) == len(samples) + intake.duplicates + len(intake.refused) + blanks


@given(lines=st.lists(st.text('", \tab', max_size=12), max_size=8))
@settings(PROPERTY, max_examples=400)
def test_a_caption_of_any_csv_is_what_the_csv_library_reads_of_its_lines(lines: list[str]) -> None:
    """A record's lines, alone, are one record of CSV, or one line that is none; no line is read twice or left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.csv"
        path.write_text("\n".join(["id,caption", *lines, "1,the last"]), encoding="utf-8")
        records = all_of(path)
    starts = [record.line for record in records]
    assert starts == sorted(set(starts))
    everything = ["", "id,caption", *lines, "1,the last"]
    assert not csv_rows(everything[2 : starts[0]])
    for record, end in zip(records, [*starts[1:], len(everything)], strict=True):
        own = everything[record.line : end]
        if record.caption is None and not csv_rows(own[1:]):
            continue
        [fields] = csv_rows(own, strict=True)
        assert (len(fields) == 2) == (record.caption is not None or record.reason == "empty caption")
        assert record.caption in (None, normalised(fields[-1]))
    assert records[-1].caption == "the last" or '"' in "".join(lines)


def csv_rows(lines: list[str], *, strict: bool = False) -> list[list[str]]:
    """Rows that aren't blank, as the csv library reads them."""
    return [row for row in csv.reader([line + "\n" for line in lines], strict=strict) if "".join(row).strip()]
