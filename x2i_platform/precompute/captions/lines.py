"""Bytes become lines of text, in the same way for every text format.

A line ends at a line feed, a carriage return, or both. Bytes that can't be decoded become lone surrogates in the text,
so that only the caption that holds them is refused.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Iterator

import charset_normalizer

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.records import MAX_CHARS, Reading

TOO_LONG = f"line longer than {MAX_CHARS} characters"
Line = tuple[int, str | None]
"""Number and text of a line. The text is None if the line is too long; such a line is never held whole."""
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Byte order marks of UTF-16. UTF-32's begins with one of them, or holds zero bytes."""
WIDE = ("utf_16", "utf_32")
HEAD_BYTES = 256
CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1f]")
"""Control characters that UTF-16 letters may look like (all Cyrillic ones do), but no UTF-8 letter does."""


def text_of(handle: io.BufferedReader, source: str, reading: Reading) -> io.TextIOWrapper:
    """The text of a file, line ends as `\\n`. Raises InputError for UTF-16 or UTF-32 if no encoding was named."""
    head = handle.peek(HEAD_BYTES)[:HEAD_BYTES]
    if reading.encoding is None and (encoding := _wide(head)):
        raise InputError(f"captions file '{source}' is {encoding.upper()}; read it with --encoding {encoding}")
    return io.TextIOWrapper(handle, encoding=reading.encoding or "utf-8-sig", errors="surrogateescape", newline=None)


def numbered(text: io.TextIOWrapper) -> Iterator[Line]:
    """Lines without their ends, from 1."""
    for number in itertools.count(1):
        line = text.readline(MAX_CHARS)
        if not line:
            return
        if len(line) == MAX_CHARS and not line.endswith("\n"):
            while (rest := text.readline(MAX_CHARS)) and not rest.endswith("\n"):
                pass
            yield number, None
            continue
        yield number, (line.lstrip("\ufeff") if number == 1 else line).removesuffix("\n")


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32, if a byte order mark or zero bytes show it. Single-byte encodings are not guessed."""
    zeros = head.count(0)
    if not head.startswith(MARKS) and (not zeros or (zeros * 4 < len(head) and _is_utf8(head))):
        return None
    best = charset_normalizer.from_bytes(head).best()
    return best.encoding.replace("_", "-") if best and best.encoding.startswith(WIDE) else None


def _is_utf8(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8, ignoring zero bytes; they may end inside a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not CONTROLS.search(head)
