"""Clients that mean harm, against the whole service: Ray Serve's proxy, the ingress and its guard rails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from service_process import serving

from tests.serving import attackers
from tests.serving.attackers import Target, Watched
from tests.serving.malformed import malformed, wrong_with
from x2i_platform.serving.http.heads import HEAD_TIMEOUT_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MB = 1024**2
FLAT = 160 * MB
"""By which all processes of the service together may grow: a body at its limit is held once by the proxy and once by
the ingress."""
IMAGES = "/v1/images/generations"
BODY_TIMEOUT_S = 3


@pytest.fixture(scope="module")
def process(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Id and port of a service on a cluster of its own, so that its processes are known."""
    guards = (f"--guard=body_timeout_s={BODY_TIMEOUT_S}", f"--guard=max_body_bytes={16 * MB}")
    with serving(str(model_folder), folder=tmp_path_factory.mktemp("service"), flags=(*guards, "--grace=1")) as service:
        assert httpx.post(f"{service.url}{IMAGES}", json={"prompt": "a red circle"}, timeout=60).status_code == 200
        yield service.process.pid, service.port


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_of_a_gigabyte_is_refused_early(process: tuple[int, int], chunked: bool) -> None:
    pid, port = process
    with Watched(pid) as memory:
        outcome = attackers.large_upload(Target(port), IMAGES, size=1024 * MB, chunked=chunked)
    assert outcome.status == (411 if chunked else 413)
    assert outcome.sent < 64 * MB
    assert memory.grown < FLAT


@pytest.mark.parametrize("attack", ["slow", "silent"])
def test_a_body_that_does_not_come_is_given_up(process: tuple[int, int], attack: str) -> None:
    target = Target(process[1])
    if attack == "slow":
        outcome = attackers.slow_body(target, IMAGES, every_s=0.2, seconds=5 * BODY_TIMEOUT_S)
    else:
        outcome = attackers.silent_body(target, IMAGES, seconds=5 * BODY_TIMEOUT_S)
    assert outcome.status == 408
    assert outcome.seconds < 2 * BODY_TIMEOUT_S + 2


def test_a_bomb_and_endless_headers_are_refused(process: tuple[int, int]) -> None:
    pid, port = process
    with Watched(pid) as memory:
        assert attackers.gzip_bomb(Target(port), IMAGES, size=1024 * MB).status == 415
        assert attackers.endless_head(Target(port), size=64 * MB).status in (400, 431, None)
    assert memory.grown < FLAT


def test_slow_headers_hold_a_socket_each_and_nobody_up(process: tuple[int, int]) -> None:
    """What waits for them is small."""
    pid, port = process
    target = Target(port)
    with Watched(pid) as memory, contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(target.connected())
            connection.sendall(target.head(IMAGES)[:-10])
        assert httpx.post(f"http://127.0.0.1:{port}{IMAGES}", json={"prompt": "a"}, timeout=60).status_code == 200
    assert memory.grown < FLAT


def test_headers_that_do_not_come_are_given_up(process: tuple[int, int]) -> None:
    outcome = attackers.slow_head(Target(process[1]), every_s=0.5, seconds=3 * HEAD_TIMEOUT_S)
    assert (outcome.status, outcome.closed) == (408, True)
    assert outcome.seconds < HEAD_TIMEOUT_S + 10


def test_wrong_requests_are_refused_and_the_service_goes_on(process: tuple[int, int]) -> None:
    pid, port = process
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http, Watched(pid) as memory:
        for request in malformed(500, seed=11):
            answer = http.request(request.method, request.path, content=request.body, headers=request.headers)
            assert not wrong_with(request, answer.status_code, answer.content)
        assert http.post(IMAGES, json={"prompt": "a red circle"}).status_code == 200
    assert memory.grown < FLAT
