"""Decodes bytes to lines of text, in the same way for all text formats.

A line ends at a line feed, a carriage return, or both. Bytes that can't be decoded become lone surrogates in the text,
so only the captions that contain them are refused.
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
"""Number and text; None for a line that is too long, which is never in memory as a whole."""
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""UTF-32's mark begins with one of them or contains zero bytes."""
WIDE = ("utf_16", "utf_32")
HEAD_BYTES = 256
CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x1f]")
"""Letters in UTF-16 may contain these bytes (all Cyrillic ones do); text in UTF-8 never does."""


def text_of(handle: io.BufferedReader, source: str, reading: Reading) -> io.TextIOWrapper:
    """Open a file as text with `\\n` as line ends. Raises InputError for UTF-16 or UTF-32 if no encoding is given."""
    head = handle.peek(HEAD_BYTES)[:HEAD_BYTES]
    if reading.encoding is None and (encoding := _wide(head)):
        raise InputError(f"captions file '{source}' is {encoding.upper()}; read it with --encoding {encoding}")
    return io.TextIOWrapper(handle, encoding=reading.encoding or "utf-8-sig", errors="surrogateescape", newline=None)


def numbered(text: io.TextIOWrapper) -> Iterator[Line]:
    """Yield lines without their ends, numbered from 1."""
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
    """Detect UTF-16 or UTF-32 by a mark or zero bytes. Single-byte encodings are not guessed."""
    zeros = head.count(0)
    if not head.startswith(MARKS) and (not zeros or (zeros * 4 < len(head) and _is_utf8(head))):
        return None
    best = charset_normalizer.from_bytes(head).best()
    return best.encoding.replace("_", "-") if best and best.encoding.startswith(WIDE) else None


def _is_utf8(head: bytes) -> bool:
    """Return whether the start of a file is UTF-8 text, apart from zero bytes. It may end inside a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not CONTROLS.search(head)
