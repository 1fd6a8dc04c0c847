"""All guard rails together, against attackers on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.serving import attackers
from tests.serving.attackers import Watched
from tests.serving.http.small_app import SECRET_PATH, small_app
from tests.serving.http.small_server import SmallServer, small_server
from x2i_platform.serving.http.guards import GuardConfig, guarded

MB = 1024**2
GENERATIONS = "/v1/images/generations"
LIMITS = {"max_body_bytes": 4 * MB, "max_file_bytes": 64 * MB, "body_timeout_s": 1.0, "file_timeout_s": 1.0}
FLAT = 16 * MB
"""Bytes that a process may grow by while it is attacked; its own buffers and its allocator's take some."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    many = {"requests_per_minute": 100_000, "concurrent": 1000}
    with small_server(tmp_path_factory.mktemp("server"), **LIMITS, **many, request_timeout_s=3.0) as running:
        yield running


@pytest.mark.parametrize("path", [GENERATIONS, "/v1/files"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_gigabyte_is_refused_early_and_leaves_memory_flat(server: SmallServer, path: str, chunked: bool) -> None:
    with Watched(server.pid) as memory:
        outcome = attackers.large_upload(server.target, path, size=1024 * MB, chunked=chunked)
    assert outcome.status == 413 and b"body_too_large" in outcome.body and outcome.closed
    limit = LIMITS["max_file_bytes"] if path == "/v1/files" else LIMITS["max_body_bytes"]
    assert outcome.sent <= (limit if chunked else 0) + 8 * MB  # what lies in buffers of sockets
    assert memory.grown < FLAT


def test_a_chunk_that_lies_about_its_size_is_cut_where_the_limit_is(server: SmallServer) -> None:
    with Watched(server.pid) as memory:
        outcome = attackers.lying_upload(server.target, GENERATIONS, size=1024 * MB)
    assert (outcome.status, outcome.closed) == (413, True)
    assert memory.grown < FLAT


def test_what_streams_within_the_limit_is_not_kept(server: SmallServer) -> None:
    with Watched(server.pid) as memory:
        outcome = attackers.large_upload(server.target, "/v1/files", size=60 * MB, chunked=True)
    assert (outcome.status, outcome.body) == (200, b'{"bytes":%d}' % (60 * MB))
    assert memory.grown < FLAT


def test_packed_bodies_are_not_unpacked(server: SmallServer) -> None:
    with Watched(server.pid) as memory:
        outcome = attackers.gzip_bomb(server.target, GENERATIONS, size=1024 * MB)
    assert outcome.status == 415 and b"Content-Encoding" in outcome.body
    assert memory.grown < FLAT


def test_a_body_a_byte_at_a_time_has_its_time_and_no_more(server: SmallServer) -> None:
    slow = attackers.slow_body(server.target, GENERATIONS, every_s=0.1, seconds=10)
    silent = attackers.silent_body(server.target, GENERATIONS, seconds=10)
    for outcome in (slow, silent):
        assert (outcome.status, outcome.closed) == (408, True)
        assert 0.9 < outcome.seconds < 5


@pytest.mark.parametrize(("path", "status", "size"), [("/nowhere", 404, 2 * MB), (GENERATIONS, 413, 12 * MB)])
def test_a_client_that_is_still_sending_gets_its_refusal(
    server: SmallServer, path: str, status: int, size: int
) -> None:
    with httpx.Client() as client:
        for _ in range(20):
            assert client.post(server.url(path), content=bytes(size)).status_code == status


def test_so_many_uploads_may_run_at_once(server: SmallServer) -> None:
    head = server.target.head("/v1/files", Content_Length="10")
    with contextlib.ExitStack() as closing:
        for _ in range(4):
            connection = closing.enter_context(server.target.connected())
            connection.sendall(head)
        time.sleep(0.3)
        refused = httpx.post(server.url("/v1/files"), content=b"a")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "10")
        assert refused.json()["error"]["code"] == "too_many_uploads"
        assert httpx.post(server.url(GENERATIONS), json={"prompt": "a"}).status_code == 200
        connection.sendall(b"0123456789")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert httpx.post(server.url("/v1/files"), content=b"a").status_code == 200


def test_hundreds_of_slow_bodies_leave_the_service_free(server: SmallServer) -> None:
    async def attack() -> None:
        streams = [await asyncio.open_connection("127.0.0.1", server.target.port) for _ in range(300)]
        for _, writer in streams:
            writer.write(server.target.head(GENERATIONS, Content_Length="1000"))
        async with httpx.AsyncClient() as client:
            began = time.monotonic()
            assert (await client.get(server.url("/health"))).status_code == 200
            assert time.monotonic() - began < 2
        answers = await asyncio.gather(*(reader.read(12) for reader, _ in streams))
        assert set(answers) == {b"HTTP/1.1 408"}
        for _, writer in streams:
            writer.close()

    with Watched(server.pid) as memory:
        asyncio.run(attack())
    assert memory.grown < FLAT


def test_an_endless_head_ends(server: SmallServer) -> None:
    outcome = attackers.raw(server.target, server.target.head("/health", method="GET", X_Long="a" * 40_000))
    assert (outcome.status, b"head_too_large" in outcome.body) == (431, True)


def test_streams_pass_as_they_are_made_and_a_client_that_goes_ends_them(server: SmallServer) -> None:
    with httpx.stream("GET", server.url("/events")) as answer:
        began = time.monotonic()
        assert next(answer.iter_lines()) == "data: 0"
        assert time.monotonic() - began < 1
    deadline = time.monotonic() + 5
    while not any(line["path"] == "/events" for line in server.audit()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    line = next(line for line in server.audit() if line["path"] == "/events")
    assert line["disconnected"] and line["seconds"] < 2.5


def test_a_stream_that_takes_too_long_ends_with_an_error_event(server: SmallServer) -> None:
    with httpx.stream("GET", server.url("/events")) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-2] == "event: error" and '"code": "request_timeout"' in lines[-1]


def test_no_answer_in_time_and_bugs_have_an_answer_of_their_own(server: SmallServer) -> None:
    late = httpx.get(server.url("/slow"), timeout=10)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "request_timeout")
    for path in ("/bug", "/traceback"):
        answer = httpx.get(server.url(path), headers={"X-Request-Id": "mine-1"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert "mine-1" in answer.text and SECRET_PATH not in answer.text and "Lookup" not in answer.text
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url("/late-bug"))
    logged = server.log.read_text()
    assert "request mine-1 failed" in logged and SECRET_PATH in logged


def test_a_connection_goes_on_after_what_was_read_whole(server: SmallServer) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            assert client.post(server.url(GENERATIONS), json={"prompt": "a"}).status_code == 200
            assert client.post(server.url(GENERATIONS), json={"prompt": ""}).status_code == 400


def test_what_is_no_request_over_http_is_not_taken() -> None:
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    asyncio.run(guarded(small_app(), GuardConfig())({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_settings_that_open_a_service_without_keys_to_every_page_are_refused() -> None:
    with pytest.raises(ValueError, match="any web page"):
        GuardConfig(cors_origins=("*",))
    with pytest.raises(ValueError, match="requests_per_minute"):
        GuardConfig(requests_per_minute=0)
