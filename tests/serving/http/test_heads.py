"""Heads that don't end, against a real server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import httpx
import pytest

from tests.serving import attackers
from tests.serving.attackers import Watched
from tests.serving.http.small_server import SmallServer, small_server

MB = 1024**2
FLAT = 16 * MB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    with small_server(tmp_path_factory.mktemp("server"), body_timeout_s=10.0) as running:
        yield running


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer of a connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def test_headers_without_end_are_cut_and_leave_memory_flat(server: SmallServer) -> None:
    line = server.target.head("/health", method="GET")[:-2]
    with Watched(server.pid) as memory:
        many = attackers.endless_head(server.target, size=200 * MB)
        one = attackers.raw(server.target, line + b"X-Long: " + b"a" * (20 * MB))
        path = attackers.raw(server.target, b"GET /" + b"a" * (20 * MB))
    for outcome in (many, one, path):
        assert outcome.status in (431, None) and outcome.closed  # of what is sent too fast the answer may be lost
        assert outcome.sent < 8 * MB
    assert memory.grown < FLAT


def test_headers_a_byte_at_a_time_have_their_time_and_no_more(server: SmallServer) -> None:
    slow = attackers.slow_head(server.target, every_s=0.1, seconds=10)
    silent = attackers.raw(server.target, b"")
    for outcome in (slow, silent):
        assert (outcome.status, outcome.closed) == (408, True)
        assert 0.9 < outcome.seconds < 5


def test_a_second_request_of_a_connection_has_its_own_time(server: SmallServer) -> None:
    with server.target.connected() as connection:
        for _ in range(3):
            connection.sendall(server.target.head("/health", method="GET"))
            assert answered(connection) == (200, b'{"status":"ok"}')
            time.sleep(0.7)  # in all longer than one head may take
        connection.sendall(b"GET / HT")
        assert answered(connection) == (408, b"")
        assert not connection.recv(10_000)


def test_bodies_are_no_heads(server: SmallServer) -> None:
    with httpx.Client() as client:
        for size in (0, 100, 300_000, 20 * MB):
            assert client.post(server.url("/v1/files"), content=bytes(size)).json() == {"bytes": size}
    target = server.target
    with target.connected() as connection:  # two requests, of which the first has a body longer than a head may be
        first = target.head("/v1/files", Content_Length="200000") + bytes(200_000)
        connection.sendall(first + target.head("/health", method="GET")[:20])
        assert answered(connection) == (200, b'{"bytes":200000}')
        connection.sendall(target.head("/health", method="GET")[20:])
        assert answered(connection)[0] == 200
