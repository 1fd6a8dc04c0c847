"""Prompt files: each line is a prompt or an error that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from x2i_platform.errors import InputError
from x2i_platform.evaluation.prompt_sets import PromptCase, read

GENEVAL = {
    "tag": "counting",
    "include": [{"class": "clock", "count": 2}],
    "exclude": [{"class": "clock", "count": 3}],
    "prompt": "a photo of two clocks",
}


def test_lines_of_text_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red circle\r\n  ein grüner Kreis \nline\u2028separator".encode())
    assert [case.prompt for case in read(path)] == ["a red circle", "ein grüner Kreis", "line\u2028separator"]
    assert read(str(path))[0] == PromptCase("a red circle", "", {"prompt": "a red circle"})


def test_geneval_lines_keep_all_they_say(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(json.dumps(GENEVAL) + "\n" + json.dumps(GENEVAL) + "\n")
    assert read(path) == [PromptCase("a photo of two clocks", "counting", GENEVAL)] * 2


def test_plain_json_lines_may_name_a_category(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "一个红色的圆", "category": "colours", "id": 7}\n{"prompt": "b"}')
    assert read(path) == [
        PromptCase("一个红色的圆", "colours", {"prompt": "一个红色的圆", "category": "colours", "id": 7}),
        PromptCase("b", "", {"prompt": "b"}),
    ]


def test_a_folder_of_texts_names_its_items(tmp_path: Path) -> None:
    for name, text in (("partiprompts16.txt", "a castle\n"), ("COCOval2014000000000042.txt", "a dog"), (".hidden", "")):
        (tmp_path / name).write_text(text)
    assert read(tmp_path) == [
        PromptCase("a dog", "", {"item_id": "COCOval2014000000000042", "prompt": "a dog"}),
        PromptCase("a castle", "", {"item_id": "partiprompts16", "prompt": "a castle"}),
    ]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b'{"prompt": "a"}\n\n{"prompt": "b"}\n', 2, "empty line"),
        (b'{"prompt": "a"}\n{"prompt": "b"\n', 2, "not JSON"),
        (b'["a"]\n', 1, "list, not an object"),
        (b'{"text": "a"}\n', 1, "no 'prompt' among 'text'"),
        (b"{}\n", 1, "no 'prompt' among no keys"),
        (b'{"prompt": 5}\n', 1, "prompt is 5, not text"),
        (b'{"prompt": "  "}\n', 1, "empty prompt"),
        (b'{"prompt": "a", "category": null}\n', 1, "category is null, not text"),
        (b'{"prompt": "a", "tag": ["x"]}\n', 1, 'tag is ["x"], not text'),
        (b'{"prompt": "a", "category": "all"}\n', 1, "names the sum of all categories"),
        (b'{"prompt": "a", "weight": NaN}\n', 1, "NaN is no number of JSON"),
        (b'{"prompt": "\\ud800"}\n', 1, "lone surrogate"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', 2, "byte 13 is not UTF-8"),
        (b"[" * 100_000 + b"\n", 1, "not JSON"),
    ],
)
def test_a_bad_json_line_is_named(tmp_path: Path, content: bytes, line: int, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:{line}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(("content", "line"), [(b"a\n\nb\n", 2), (b"a\nb\n \n", 3), (b"a\0b\n", 1), (b"\n", 1)])
def test_a_bad_text_line_is_named(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"prompts.txt:{line}: "):
        read(path)


def test_files_that_are_no_prompt_sets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "prompts.csv").write_text("a,b\n")
    (tmp_path / "folder").mkdir()
    for name, said in {
        "empty.txt": "is empty; expected one prompt a line",
        "prompts.csv": r"expected a file in .txt or .jsonl, or a folder",
        "missing.txt": "can't be read: No such file",
        "folder": "found none",
        "": "found 'folder'",
    }.items():
        with pytest.raises(InputError, match=said):
            read(tmp_path / name)
