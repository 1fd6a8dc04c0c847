"""Prompt sets, read from a file with one prompt per line (text or JSON), or from a folder of text files.

Invariant: every line is a prompt or an error that names it. Nothing is skipped, because a shorter set gives other
figures.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from x2i_platform.errors import InputError
from x2i_platform.evaluation.results import ALL


@dataclass(frozen=True)
class PromptCase:
    """A prompt, the category of its figures (empty: none), and everything else its source holds."""

    prompt: str
    category: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def read(path: str | Path) -> list[PromptCase]:
    """All prompts of a set, in order. Raises InputError, naming file and line, for anything that is no prompt.

    - `.txt`: one prompt a line.
    - `.jsonl`: one object a line with `prompt`, and `category` if it has one; GenEval's lines, with `tag` and
      `include`, are such objects, and their tag is the category. `metadata` is the whole object.
    - a folder of `.txt` files, one prompt each, as DPG-Bench's are: `metadata["item_id"]` is the file's name.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"prompts '{path}': expected a file in {' or '.join(_PARSERS)}, or a folder of .txt files")
    cases = [parse(line, f"{path}:{number}") for number, line in _lines(path)]
    if not cases:
        raise InputError(f"prompts '{path}' is empty; expected one prompt a line")
    return cases


def _read_folder(path: Path) -> list[PromptCase]:
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    foreign = next((file.name for file in files if file.suffix.lower() != ".txt" or not file.is_file()), None)
    if foreign is not None or not files:
        found = f"found '{foreign}'" if foreign is not None else "found none"
        raise InputError(f"prompts '{path}': a folder of prompts holds .txt files and nothing else; {found}")
    return [_folder_case(file) for file in files]


def _folder_case(file: Path) -> PromptCase:
    text = _decoded(_content(file), str(file))
    prompt = _checked(text.strip(), str(file))
    return PromptCase(prompt, metadata={"item_id": file.stem, "prompt": prompt})


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"prompts '{path}' can't be read: {error.strerror or error}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers. Only a line feed ends one: Unicode's other breaks belong to prompts."""
    lines = _content(path).split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, _decoded(line, f"{path}:{number}").removesuffix("\r")


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None


def _text_case(line: str, place: str) -> PromptCase:
    prompt = _checked(line.strip(), place)
    return PromptCase(prompt, metadata={"prompt": prompt})


def _json_case(line: str, place: str) -> PromptCase:
    wanted = 'expected an object like {"prompt": "a red cube", "category": "colours"}'
    if not line.strip():
        raise InputError(f"{place}: empty line; {wanted}, or delete it")
    try:
        # NaN and Infinity are no JSON, and what is written from this must be.
        record = json.loads(line, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({error}); {wanted}") from None
    if not isinstance(record, dict):
        raise InputError(f"{place}: {type(record).__name__}, not an object; {wanted}")
    if "prompt" not in record:
        raise InputError(f"{place}: no 'prompt' among {', '.join(map(repr, record)) or 'no keys'}; {wanted}")
    category_key = "category" if "category" in record else "tag"
    for name, value in (("prompt", record["prompt"]), (category_key, record.get(category_key, ""))):
        if not isinstance(value, str):
            raise InputError(f"{place}: {name} is {json.dumps(value)}, not text; {wanted}")
    category = str(record.get(category_key, ""))
    if category == ALL:
        raise InputError(f"{place}: category '{category}' names the sum of all categories; choose another name")
    if category:
        _checked(category, place)
    return PromptCase(_checked(record["prompt"].strip(), place), category, record)


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _checked(text: str, place: str) -> str:
    if not text:
        raise InputError(f"{place}: empty prompt; write one or delete the line")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InputError(f"{place}: holds a NUL or a lone surrogate, which is no text")
    return text


_PARSERS: dict[str, Callable[[str, str], PromptCase]] = {".txt": _text_case, ".jsonl": _json_case}
