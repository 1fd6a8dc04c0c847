"""Clients that mean harm, on plain sockets, to aim at any service; and a look at how much memory it takes meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import psutil

CHUNK = bytes(64 * 1024)
POLL_S = 0.02
ANSWER_S = 20.0
CLOSE_S = 4.0
"""Seconds in which a service that means to close a connection does so after its answer."""


@dataclass(frozen=True)
class Target:
    """A service, and the headers that a request to it must have, such as a key."""

    port: int
    host: str = "127.0.0.1"
    headers: Mapping[str, str] = field(default_factory=dict)

    def connected(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=ANSWER_S)

    def head(self, path: str, *, method: str = "POST", **headers: str) -> bytes:
        """A request's line and headers. Of names `_` becomes `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        every = {"Host": f"{self.host}:{self.port}", "Content-Type": "application/json", **self.headers, **named}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in every.items()), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass(frozen=True)
class Outcome:
    """How an attack ended."""

    status: int | None
    """None if the connection ended without an answer."""
    body: bytes
    sent: int
    """Bytes of the body that went out before the answer."""
    seconds: float
    closed: bool
    """Whether the service closed the connection behind its answer."""


def large_upload(target: Target, path: str, *, size: int, chunked: bool) -> Outcome:
    """An upload of zeros, which goes on until there is an answer."""
    length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
    return _attack(target, target.head(path, **length), pieces=_zeros(size, chunked=chunked))


def lying_upload(target: Target, path: str, *, size: int) -> Outcome:
    """A chunk that says to be of `size` bytes, and never ends."""
    head = target.head(path, Transfer_Encoding="chunked") + f"{size:x}\r\n".encode()
    return _attack(target, head, pieces=(CHUNK for _ in range(size // len(CHUNK))))


def slow_body(target: Target, path: str, *, every_s: float, seconds: float) -> Outcome:
    """A body that arrives a byte at a time, for so long at most."""
    head = target.head(path, Content_Length="100000")
    return _attack(target, head, pieces=(b" " for _ in range(int(seconds / every_s))), pause_s=every_s)


def silent_body(target: Target, path: str, *, seconds: float) -> Outcome:
    """A body that is announced and never comes."""
    return _attack(target, target.head(path, Content_Length="10"), pieces=(), wait_s=seconds)


def slow_head(target: Target, *, every_s: float, seconds: float) -> Outcome:
    """Headers that arrive a byte at a time."""
    lines = b"X-Slow: " + b"a" * int(seconds / every_s)
    return _attack(
        target, target.head("/health", method="GET")[:-2], pieces=(bytes([b]) for b in lines), pause_s=every_s
    )


def endless_head(target: Target, *, size: int) -> Outcome:
    """Headers that don't end."""
    line = b"X-Long: " + b"a" * 8000 + b"\r\n"
    return _attack(target, target.head("/health", method="GET")[:-2], pieces=(line for _ in range(size // len(line))))


def gzip_bomb(target: Target, path: str, *, size: int) -> Outcome:
    """A small body that would be `size` bytes when it is unpacked."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(size // len(CHUNK)):
            file.write(CHUNK)
    data = packed.getvalue()
    return _attack(target, target.head(path, Content_Encoding="gzip", Content_Length=str(len(data))), pieces=(data,))


def raw(target: Target, data: bytes) -> Outcome:
    """Any bytes."""
    return _attack(target, data, pieces=())


def _zeros(size: int, *, chunked: bool) -> Iterator[bytes]:
    for begin in range(0, size, len(CHUNK)):
        piece = CHUNK[: size - begin]
        yield b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"


def _attack(
    target: Target, head: bytes, *, pieces: Iterable[bytes], pause_s: float = 0, wait_s: float = ANSWER_S
) -> Outcome:
    began, sent = time.monotonic(), 0
    with target.connected() as connection:
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.sendall(head)
            for piece in pieces:
                if select.select([connection], [], [], pause_s)[0]:
                    break
                connection.sendall(piece)
                sent += len(piece)
        # The answer may lie there even where sending failed.
        answer, closed = _answer(connection, wait_s=wait_s)
    first, _, rest = answer.partition(b"\r\n")
    status = int(first.split()[1]) if first.startswith(b"HTTP/1.1 ") else None
    return Outcome(status, rest.partition(b"\r\n\r\n")[2], sent, time.monotonic() - began, closed)


def _answer(connection: socket.socket, *, wait_s: float) -> tuple[bytes, bool]:
    """What comes back, and whether the connection ended then."""
    answer = bytearray()
    connection.settimeout(wait_s)
    try:
        while data := connection.recv(len(CHUNK)):
            answer += data
            if _is_whole(bytes(answer)):
                connection.settimeout(CLOSE_S)
    except TimeoutError:
        return bytes(answer), False
    except ConnectionError:
        pass
    return bytes(answer), True


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    return bool(end and length and len(body) >= int(length[1]))


class Watched:
    """How much memory a process and its children take at most, for the length of a `with`.

    Only those that are there at its start: Ray starts workers ahead of need, at any time, of 100 MB each.
    """

    def __init__(self, pid: int) -> None:
        self.process, self.before, self.peak = psutil.Process(pid), 0, 0
        self.watched: list[psutil.Process] = []
        self.thread, self.done = threading.Thread(target=self._watch, daemon=True), threading.Event()

    def __enter__(self) -> Self:
        self.watched = [self.process, *self.process.children(recursive=True)]
        self.before = self.peak = self._rss()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    @property
    def grown(self) -> int:
        """Bytes by which it grew at its peak."""
        return self.peak - self.before

    def _watch(self) -> None:
        while not self.done.wait(POLL_S):
            self.peak = max(self.peak, self._rss())

    def _rss(self) -> int:
        total = 0
        for each in self.watched:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_info().rss
        return total
