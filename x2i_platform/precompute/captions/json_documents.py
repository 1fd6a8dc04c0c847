"""Reads JSON documents: an array of captions, an object that contains one, or JSON Lines named .json.

Invariant: memory holds one element of an array at a time; values that aren't needed are skipped without being built.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import ijson
from ijson.common import ObjectBuilder

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.json_values import json_lines, records_of
from x2i_platform.precompute.captions.lines import text_of
from x2i_platform.precompute.captions.records import KNOWN_NAMES, MAX_CHARS, Reading, Record, listed, pick

ANNOTATIONS = "annotations"
"""The key under which COCO keeps its captions."""
MAX_NESTING = 200
MARK = "\ufeff"
OPEN, CLOSE = ("start_map", "start_array"), ("end_map", "end_array")
ESCAPE = re.compile(
    r"""\\(?:
        u[dD][89abAB]\w\w \\u[dD][c-fC-F]\w\w                              # a pair of surrogates
        | (?P<cut> (?: u\w{0,3} | u[dD][89abAB]\w\w (\\(u\w{0,3})?)? )? \Z )  # cut off: the next piece continues it
        | (?P<half> u[dD][89a-fA-F]\w\w )
        | .
    )""",
    re.DOTALL | re.VERBOSE,
)

Event = tuple[str, Any]


class _Events(Iterator[Event]):
    """The parser's events, with limits on the size and nesting of values."""

    def __init__(self, text: io.TextIOWrapper, source: str) -> None:
        text.seek(0)
        if text.read(1) != MARK:  # an encoding such as utf-16-le leaves the mark in the text
            text.seek(0)
        self._text = text
        self._source = source
        self._rest = ""
        self._chars = 0
        self._depth = 0
        self._events = ijson.basic_parse(self)

    def read(self, size: int) -> bytes:
        """Return the next piece of the text for the parser, which reads UTF-8.

        The parser would read half a surrogate pair as a question mark, and stop at a byte that can't be decoded. Both
        are replaced by a NUL, because a caption with a NUL is refused.
        """
        fresh = self._text.read(size)
        self._chars += len(fresh)
        if self._chars > MAX_CHARS:
            raise InputError(f"captions file '{self._source}' holds a value of more than {MAX_CHARS} characters")
        text, self._rest = self._rest + fresh.encode(errors="backslashreplace").decode(), ""
        return ESCAPE.sub(self._harmless, text).encode()

    def _harmless(self, escape: re.Match[str]) -> str:
        if escape["cut"] is not None:
            self._rest = escape[0]
            return ""
        return "\\u0000" if escape["half"] else escape[0]

    def __next__(self) -> Event:
        event: Event = next(self._events)
        self._depth += (event[0] in OPEN) - (event[0] in CLOSE)
        if self._depth > MAX_NESTING:
            raise InputError(f"captions file '{self._source}' nests more than {MAX_NESTING} objects and lists")
        return event

    def built(self, event: Event) -> Any:
        """Build the whole value that an event begins."""
        builder = ObjectBuilder()
        builder.event(*event)
        depth = int(event[0] in OPEN)
        self._chars = 0
        while depth:
            event = next(self)
            depth += (event[0] in OPEN) - (event[0] in CLOSE)
            builder.event(*event)
        return builder.value

    def skip(self, event: Event) -> None:
        """Skip the value that an event begins."""
        depth, self._chars = int(event[0] in OPEN), 0
        while depth:
            self._chars = 0
            kind = next(self)[0]
            depth += (kind in OPEN) - (kind in CLOSE)

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the array that has begun."""
        for event in self:
            if event[0] == "end_array":
                return
            yield self.built(event)

    def entries(self) -> Iterator[tuple[str, Event]]:
        """Yield the keys of the object that has begun, each with the first event of its value, to build or skip."""
        for kind, key in self:
            if kind == "end_map":
                return
            yield key, next(self)


def read_json(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Yield the records of a document. Raises InputError if it isn't valid JSON to its end."""
    text = text_of(handle, source, reading)
    if _is_json_lines(text):
        text.seek(0)
        yield from json_lines(text, source, reading.column)
        return
    numbers = itertools.count(1)
    try:
        column = reading.column or _default_column(_Events(text, source), source)
        events = _Events(text, source)
        for value, below in _values(events, next(events), column, source):
            yield from records_of(source, next(numbers), value, below)
        next(events, None)  # raises an error if there is more after the end
    except (ijson.JSONError, ValueError) as error:
        done = next(numbers) - 1
        reason = " ".join(str(error).split())
        raise InputError(f"captions file '{source}' is not JSON after its value number {done}: {reason}") from None


def _is_json_lines(text: io.TextIOWrapper) -> bool:
    """Return whether the first line is a JSON value by itself and another line follows."""
    lines = (line for line in iter(lambda: text.readline(MAX_CHARS), "") if line.strip())
    first, second = next(lines, "").removeprefix(MARK), next(lines, None)
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return False
    return second is not None


def _default_column(events: _Events, source: str) -> str | None:
    """Choose the key to read in an object: a known one, else COCO's. Raises InputError if it has neither."""
    if next(events)[0] != "start_map":
        return None
    keys = []
    for key, event in events.entries():
        keys.append(key)
        events.skip(event)
    column = pick(keys, None) or pick(keys, ANNOTATIONS)
    if column is None:
        raise InputError(
            f"captions file '{source}' has no key {KNOWN_NAMES} or {ANNOTATIONS}; name it by --column, with dots for a "
            f"key below another; its keys: {listed(keys)}"
        )
    return column


def _values(events: _Events, event: Event, column: str | None, source: str) -> Iterator[tuple[Any, str | None]]:
    """Yield each value that may contain captions, with the rest of the column below it."""
    if event[0] == "start_array":
        yield from ((element, column) for element in events.elements())
    elif event[0] == "start_map" and column is not None:
        keys, found = [], False
        for key, begun in events.entries():
            keys.append(key)
            if key == column or column.startswith(f"{key}."):
                found = True
                yield from _values(events, begun, column[len(key) + 1 :] or None, source)
            else:
                events.skip(begun)
        if not found:
            raise InputError(f"captions file '{source}' has no key '{column}'; its keys: {listed(keys)}")
    else:
        yield events.built(event), column
