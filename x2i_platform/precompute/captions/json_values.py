"""Finds captions in JSON values, and reads JSON Lines, with one value per line."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from x2i_platform.precompute.captions.lines import TOO_LONG, numbered, text_of
from x2i_platform.precompute.captions.records import KNOWN_NAMES, Reading, Record, checked, kind_of, listed, pick

MAX_DEPTH = 16
"""Maximum nesting of a caption in keys and lists."""


@dataclass(frozen=True)
class Missing:
    """The reason why a value has no caption."""

    reason: str


def records_of(source: str, line: int, value: Any, column: str | None) -> Iterator[Record]:
    """Yield a JSON value's captions: the text itself or under a key (`a.b` if nested), of a list for each element."""
    for found in _found(value, column, depth=0):
        yield Record(source, line, None, found.reason) if isinstance(found, Missing) else checked(source, line, found)


def step(names: Collection[str], column: str | None) -> tuple[str, str | None] | None:
    """Return the key of the column's first part and the rest of the column, or None if there is no such key."""
    if column is None:
        key = pick(names, None)
        return None if key is None else (key, None)
    parts = column.split(".")
    for count in range(len(parts), 0, -1):  # a key may contain dots
        if (key := ".".join(parts[:count])) in names:
            return key, ".".join(parts[count:]) or None
    return None


def read_json_lines(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Yield the records of JSON Lines. Blank lines are skipped."""
    return json_lines(text_of(handle, source, reading), source, reading.column)


def json_lines(text: io.TextIOWrapper, source: str, column: str | None) -> Iterator[Record]:
    """Yield the captions of each line's value."""
    for number, line in numbered(text):
        if line is None:
            yield Record(source, number, None, TOO_LONG)
        elif line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Record(source, number, None, f"not JSON: {error}")
            else:
                yield from records_of(source, number, value, column)


def _found(value: Any, column: str | None, *, depth: int) -> Iterator[Any]:
    if depth > MAX_DEPTH:
        yield Missing(f"caption lies below more than {MAX_DEPTH} keys and lists")
    elif isinstance(value, list):
        if not value:
            yield Missing("list without a caption")
        for element in value:
            yield from _found(element, column, depth=depth + 1)
    elif isinstance(value, dict):
        if (taken := step(value, column)) is None:
            advice = "" if column else "; name it by --column"
            yield Missing(f"no key {column or KNOWN_NAMES} among {listed(value)}{advice}")
        else:
            yield from _found(value[taken[0]], taken[1], depth=depth + 1)
    elif column is not None:
        yield Missing(f"no key {column}: there is {kind_of(value)}")
    else:
        yield value
