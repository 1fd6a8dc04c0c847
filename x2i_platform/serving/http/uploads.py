"""Forms with one file that is written to disk as it arrives. Memory holds one chunk of it.

Starlette's own form parser would write the file to the temporary folder first, and then have it read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from x2i_platform.serving.http.errors import ApiError

MAX_FIELD_BYTES = 64 * 1024
"""Of all fields together that are no file."""
MAX_PARTS = 32
EXPECTED = "expected multipart/form-data with the fields 'purpose' and 'file'"


@dataclass
class Form:
    """What arrived beside the file's content."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    """None where no file came."""


async def receive(request: Request, write: Callable[[bytes], None]) -> Form:
    """Read a form; the content of its part `file` goes to `write`, in a thread.

    Raises ApiError for a body that is no such form, and what `write` raises.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(415, EXPECTED)
    form = Form()
    async for content in _contents(request, _Parts(form), boundary=options[b"boundary"]):
        await asyncio.to_thread(write, content)
    return form


async def _contents(request: Request, parts: _Parts, *, boundary: bytes) -> AsyncIterator[bytes]:
    """The content of the file, in pieces."""
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk)
            if content := parts.take():
                yield content
        parser.finalize()
    except FormParserError as error:
        raise ApiError(400, f"the form can't be read: {error}") from None
    if not parts.complete:
        raise ApiError(400, "the form ends in the middle of a part")


class _Parts:
    """Collects what the parser finds."""

    def __init__(self, form: Form) -> None:
        self.form, self.complete = form, False
        self._header, self._value, self._name = b"", b"", ""
        self._headers: dict[bytes, bytes] = {}
        self._is_file, self._count, self._field_bytes = False, 0, 0
        self._field, self._content = bytearray(), bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """What the parser calls."""
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        return {f"on_{name}": getattr(self, f"_{name}") for name in names} | {
            "on_headers_finished": self._headers_finished
        }

    def take(self) -> bytes:
        """The file's content since the last time."""
        content, self._content = bytes(self._content), bytearray()
        return content

    def _part_begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise ApiError(400, f"the form has more than {MAX_PARTS} parts")
        self._headers, self._field = {}, bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.form.filename is not None:
                raise ApiError(400, "file: is given twice", param="file")
            if b"filename" not in options:
                raise ApiError(400, "file: is a text; send it as a file, with a filename", param="file")
            self.form.filename = options[b"filename"].decode(errors="replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._content += data[start:end]
            return
        self._field_bytes += end - start
        if self._field_bytes > MAX_FIELD_BYTES:
            raise ApiError(
                413, f"{self._name[:100]}: fields may have {MAX_FIELD_BYTES:,} bytes", param=self._name[:100]
            )
        self._field += data[start:end]

    def _part_end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._field.decode(errors="replace")

    def _end(self) -> None:
        self.complete = True
