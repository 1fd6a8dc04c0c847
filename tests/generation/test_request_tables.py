"""Parquet as requests: the same requests as lines of JSON would be, in pieces, with errors row by row."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.media import hostile
from x2i_platform.errors import InputError
from x2i_platform.generation.requests import ParsedLine, read_requests


def read(path: Path, rows: list[dict[str, Any]] | pa.Table, **options: Any) -> list[ParsedLine]:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    pq.write_table(table, path / "requests.parquet", **options)
    return list(read_requests(str(path / "requests.parquet")))


def test_columns_are_keys_and_empty_cells_are_keys_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a red circle", "id": "x", "seed": 7, "width": 96, "tag": None, "answer": None},
        {"prompt": "[not a list]", "id": None, "seed": None, "width": None, "tag": ["t"], "answer": {"max_tokens": 3}},
    ]
    first, second = read(tmp_path, rows)
    assert first.request and second.request
    assert (first.request.prompt, first.request.id, first.seed, first.request.width) == ("a red circle", "x", 7, 96)
    assert (second.request.prompt, second.request.id, second.seed, second.request.width) == (
        *("[not a list]", None, 2, None),
    )
    assert (first.request.model_extra, second.request.model_extra) == ({}, {"tag": ["t"]})
    assert second.request.answer
    assert second.request.answer.max_tokens == 3


def test_each_row_is_what_the_line_of_json_is(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "seed": 1, "guidance": 2.5, "num_inference_steps": 3, "extra": {"k": [1, 2]}},
        {"prompt": " ", "seed": 2, "guidance": 2.5, "num_inference_steps": 3, "extra": None},
        {"prompt": "c", "seed": -1, "guidance": 2.5, "num_inference_steps": 3, "extra": None},
        {"prompt": None, "seed": 1, "guidance": 2.5, "num_inference_steps": 3, "extra": None},
    ]
    lines = [json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    assert read(tmp_path, rows) == list(read_requests(str(tmp_path / "requests.jsonl")))


def test_whole_numbers_that_pandas_made_floats(tmp_path: Path) -> None:
    sizes = pa.array([64.0, float("nan"), 64.5])
    first, second, third = read(tmp_path, pa.table({"prompt": ["a", "b", "c"], "width": sizes}))
    assert first.request and second.request
    assert (first.request.width, second.request.width) == (64, None)
    assert "width" in str(third.error)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "bytes": hostile.picture()},
        {"type": "image", "image": hostile.picture()},
        {"type": "image", "image": {"bytes": hostile.picture(), "path": "elsewhere.png"}},
        {"type": "image_url", "image_url": hostile.picture()},
    ],
    ids=["bytes", "cell", "datasets", "image_url"],
)
def test_bytes_are_media_of_the_prompt(tmp_path: Path, part: dict[str, Any]) -> None:
    words = {"type": "text", "text": "in blue"}
    (tmp_path / "cat.png").write_bytes(hostile.picture())
    [line] = read(tmp_path, [{"prompt": [words, part]}])
    assert line.error is None
    as_file = {"prompt": [words, {"type": "image", "image": "cat.png"}]}
    (tmp_path / "requests.jsonl").write_text(json.dumps(as_file))
    [same] = read_requests(str(tmp_path / "requests.jsonl"))
    assert line.identity == same.identity
    assert line.messages[0].parts[1].content() == hostile.picture()


def test_files_beside_the_table_are_media_too(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(hostile.picture())
    [line] = read(tmp_path, [{"prompt": [{"type": "image", "image": {"bytes": None, "path": "cat.png"}}]}])
    assert line.messages[0].parts[0].content() == hostile.picture()


def test_messages_are_a_list_or_json_text_of_one(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "a cat"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    [nested] = read(tmp_path, [{"messages": said}])
    [text, bad] = read(tmp_path, [{"messages": json.dumps(said)}, {"messages": "["}])
    assert len(nested.messages) == 3
    assert nested.identity == text.identity
    assert "not JSON" in str(bad.error)


def test_what_json_has_no_word_for(tmp_path: Path) -> None:
    when = datetime.date(2026, 1, 2)
    [dated] = read(tmp_path, [{"prompt": "a", "day": when}])
    assert dated.request
    assert dated.request.model_extra == {"day": "2026-01-02"}
    [bytes_] = read(tmp_path, [{"prompt": "a", "thumbnail": b"\x00"}])
    assert bytes_.error == "column 'thumbnail' holds bytes; only parts of a prompt, such as an image's, may be bytes"
    raw = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffb")]
    )
    not_text, good = read(tmp_path, pa.table({"prompt": raw}))
    assert "UTF-8" in str(not_text.error)
    assert good.request


def test_a_folder_is_one_numbered_table_and_duckdb_may_have_written_it(tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    for name, words in (("b", "'c'"), ("a", "'a'), ('b'")):
        duckdb.sql(f"copy (select * from (values ({words})) as rows(prompt)) to '{folder / name}.parquet'")
    (folder / "notes.txt").write_text("not read")
    found = list(read_requests(str(folder)))
    assert [(line.line, line.request.prompt) for line in found if line.request] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_large_table_is_read_in_pieces(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"p{number}" for number in range(5000)]}), tmp_path / "requests.parquet")
    lines = read_requests(str(tmp_path / "requests.parquet"))
    assert next(lines).line == 1
    assert sum(1 for _ in lines) == 4999


def test_files_that_cant_be_used_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"have no column 'prompt' or 'messages'; there are: caption, url"):
        read(tmp_path, [{"caption": "a", "url": "b"}])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"requests '.*bad.parquet' can't be read"):
        list(read_requests(str(tmp_path / "bad.parquet")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"hold no file that ends in \.parquet"):
        list(read_requests(str(tmp_path / "empty")))
    with pytest.raises(InputError, match="hold no line"):
        read(tmp_path, pa.table({"prompt": pa.array([], pa.string())}))
    with pytest.raises(InputError, match=r"'.*none.parquet' can't be read"):
        list(read_requests(str(tmp_path / "none.parquet")))
