"""Captions out of JSON: lists, nested keys, arrays, COCO's annotations; what is cut short is never a whole document."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.precompute.captions.caption_records import read, written
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import MAX_CHARS

NESTED = {"meta": {"texts": [{"en": "a cup"}, {"en": "a ball"}]}, "a.b": {"c": "a dotted key"}, "id": 1}


def test_each_element_of_a_list_is_a_caption(tmp_path: Path) -> None:
    lines = [{"captions": ["one", "two", " ", 3]}, {"captions": []}, ["three", ["four"]], {"captions": [["five"]]}]
    path = written(tmp_path / "c.jsonl", "\n".join(map(json.dumps, lines)))
    assert read(path) == [
        *((1, "one"), (1, "two"), (1, "!empty caption"), (1, "!caption is a number, not text")),
        (2, "!list without a caption"),
        *((3, "three"), (3, "four"), (4, "five")),
    ]


@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json"])
def test_dots_name_a_key_below_another(tmp_path: Path, ending: str) -> None:
    value = f"[{json.dumps(NESTED)}]" if ending == "json" else json.dumps(NESTED)
    path = written(tmp_path / f"c.{ending}", value)
    assert read(path, column="meta.texts.en") == [(1, "a cup"), (1, "a ball")]
    assert read(path, column="a.b.c") == [(1, "a dotted key")]
    assert read(path, column="meta.none") == [(1, "!no key none among texts")]
    assert read(path, column="id.x") == [(1, "!no key x: there is a number")]


def test_values_nested_too_deep_are_refused_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "c.jsonl", f'{"[" * 50}{"]" * 50}\n{"[" * 100_000}\n"fine"\n')
    (first, deep), (second, deeper), last = read(path)
    assert (first, second, last) == (1, 2, (3, "fine"))
    assert deep == "!caption lies below more than 16 keys and lists"
    assert deeper.startswith("!not JSON")


COCO = {
    "info": {"caption": "no caption of an image"},
    "images": [{"id": 1, "file_name": "1.jpg"}],
    "annotations": [{"image_id": 1, "caption": "a red cup"}, {"image_id": 1, "caption": " a  ball\n"}, {"id": 3}],
}
COCO_RECORDS = [
    (1, "a red cup"),
    (2, "a ball"),
    (3, "!no key caption or prompt or text among id; name it by --column"),
]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("document", "column", "records"),
    [
        (COCO, None, COCO_RECORDS),
        (COCO, "annotations.caption", [*COCO_RECORDS[:2], (3, "!no key caption among id")]),
        (COCO, "images.file_name", [(1, "1.jpg")]),
        (COCO["annotations"], None, COCO_RECORDS),
        (
            ["one", ["two", "three"], None],
            None,
            [(1, "one"), (2, "two"), (2, "three"), (3, "!caption is null, not text")],
        ),
        ({"captions": ["one", "two"]}, None, [(1, "one"), (2, "two")]),
        ({"caption": "one", "id": 1}, None, [(1, "one")]),
        ({"data": {"rows": [{"t": "one"}, {"t": "two"}]}}, "data.rows.t", [(1, "one"), (2, "two")]),
        ([], None, []),
        ("one", None, [(1, "one")]),
        (
            [2**70, -0.1, True],
            None,
            [*((n, "!caption is a number, not text") for n in (1, 2)), (3, "!caption is true or false, not text")],
        ),
    ],
)
def test_json_documents(
    tmp_path: Path, document: Any, column: str | None, records: list[tuple[int, str]], indent: int | None
) -> None:
    path = written(tmp_path / "c.json", json.dumps(document, indent=indent))
    assert read(path, column=column) == records


def test_json_lines_under_the_name_json_are_read_as_such(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", '\n{"caption": "one"}\n\n{"caption": "cut\n{"caption": "three"}\n')
    (first, one), (second, cut), third = read(path)
    assert (first, one, second, third) == (2, "one", 4, (5, "three"))
    assert cut.startswith("!not JSON")


def test_a_json_document_without_captions_says_its_keys(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", '{"rows": [], "licenses": []}')
    with pytest.raises(
        InputError, match=r"no key caption or prompt or text or annotations; .*; its keys: rows, licenses"
    ):
        read(path)
    with pytest.raises(InputError, match="no key 'none'; its keys: rows, licenses"):
        read(path, column="none")


@pytest.mark.parametrize(
    "document", ["", "[", '["one", "tw', '["one"] "more"', '{"captions": ["one"', '["one",, "two"]', "[" * 1000, "nul"]
)
def test_what_is_no_json_document_to_its_end_is_refused(tmp_path: Path, document: str) -> None:
    path = written(tmp_path / "c.json", document)
    with pytest.raises(InputError, match=r"c.json' ") as caught:
        read(path)
    assert "\n" not in str(caught.value)


NO_TEXT = "!caption holds a NUL or a lone surrogate, which is no text"


def test_a_json_document_of_odd_characters_loses_none(tmp_path: Path) -> None:
    document = b'["caf\xc3\xa9", "caf\xe9", "half \\ud83d a pair", "\\ud83d\\ude00", "\\u0000", "a\\tb"]'
    assert read(written(tmp_path / "c.json", document)) == [
        (1, "café"),
        (2, NO_TEXT),
        (3, NO_TEXT),
        (4, "😀"),
        (5, NO_TEXT),
        (6, "a b"),
    ]


@pytest.mark.parametrize("padding", range(14))
def test_escapes_are_whole_wherever_a_piece_of_the_file_ends(tmp_path: Path, padding: int) -> None:
    texts = ['"quoted"', "back\\slash", "\\ud83d", "😀", "é"] * 4000
    path = written(tmp_path / "c.json", f"[{' ' * padding}{json.dumps(texts)[1:-1]}]")
    assert path.stat().st_size > 4 * 64 * 1024
    assert [caption for _, caption in read(path)] == texts


def test_a_json_document_is_never_held_whole(tmp_path: Path) -> None:
    images = ",\n".join(['{"id": 1, "url": "' + "x" * 1000 + '"}'] * 4000)
    path = written(tmp_path / "c.json", f'{{"images":\n[{images}], "annotations": [{{"caption": "one"}}]}}')
    tracemalloc.start()
    try:
        assert read(path) == [(1, "one")]
        assert tracemalloc.get_traced_memory()[1] < 2 * 1024**2
    finally:
        tracemalloc.stop()


def test_an_endless_value_of_a_json_document_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "c.json", f'["one", "{"x" * (2 * MAX_CHARS)}"]')
    with pytest.raises(InputError, match="holds a value of more than"):
        read(path)
