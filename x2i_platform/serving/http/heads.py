"""Heads of requests that come to an end: what no application sees, because it is called after the head.

uvicorn on httptools keeps whatever headers arrive, for as long as it takes: 200 MB of headers took 200 MB of memory.
Here a connection is closed whose head is too long, or isn't there in time.
"""

from __future__ import annotations

import asyncio

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 20.0
"""Seconds from a connection, or the first byte of its next request, to the end of the head."""
MAX_HEAD_BYTES = 64 * 1024
LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedHeads(HttpToolsProtocol):
    """A connection whose heads are bounded, in bytes and in time."""

    head_timeout_s = HEAD_TIMEOUT_S
    max_head_bytes = MAX_HEAD_BYTES
    head_bytes = 0
    has_head = False
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.has_head, self.head_bytes = False, 0
        self._wait()

    def on_headers_complete(self) -> None:
        """The end of its head."""
        self.has_head = True
        self._stop_waiting()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Bytes, of which httptools keeps those of a head."""
        had_head = self.has_head
        super().data_received(data)
        if not had_head and not self.has_head:
            self.head_bytes += len(data)
            if self.head_bytes > self.max_head_bytes:
                self._end(LONG)

    def _wait(self) -> None:
        self._stop_waiting()
        self.timer = self.loop.call_later(self.head_timeout_s, self._end, LATE)

    def _stop_waiting(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None

    def _end(self, answer: bytes) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            # Behind the answer to an earlier request of this connection another one may be going out.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(answer)
            self.transport.close()


def bound_heads() -> None:
    """Have every uvicorn that starts in this process bound its heads."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHeads.__name__}"
