"""How often and how many at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.serving.http.small_app import small_app
from tests.serving.http.small_server import small_server
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.http.rates import is_counted
from x2i_platform.serving.keys import ApiKey

PATH = "/v1/images/generations"
KEYS = {name: name * 32 for name in ("a", "b")}
BODY = {"prompt": "a"}


def as_holder(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


@pytest.fixture
def client() -> Iterator[TestClient]:
    keys = tuple(ApiKey.of(name, key) for name, key in KEYS.items())
    with TestClient(guarded(small_app(), GuardConfig(keys=keys, requests_per_minute=3))) as running:
        yield running


def test_each_key_has_its_own_minute(client: TestClient) -> None:
    answers = [client.post(PATH, json=BODY, headers=as_holder("a")) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert left == ["2", "1", "0", "0", "0"]
    last = answers[-1]
    assert last.headers["x-ratelimit-limit-requests"] == "3"
    assert 55 <= int(last.headers["Retry-After"]) <= 60
    assert last.headers["x-ratelimit-reset-requests"] == f"{last.headers['Retry-After']}s"
    assert last.json()["error"]["code"] == "rate_limit_exceeded"
    assert client.post(PATH, json=BODY, headers=as_holder("b")).status_code == 200


def test_looking_and_giving_up_are_never_counted(client: TestClient) -> None:
    for _ in range(10):
        for answer in (
            client.get("/v1/models", headers=as_holder("a")),
            client.post("/v1/batches/batch_1/cancel", headers=as_holder("a")),
        ):
            assert answer.status_code == 200 and "x-ratelimit-limit-requests" not in answer.headers
    assert client.post(PATH, json=BODY, headers=as_holder("a")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "counts"),
    [
        ("POST", PATH, True),
        ("POST", "/v1/images/edits", True),
        ("POST", "/v1/jobs", True),
        ("POST", "/v1/files", True),
        ("POST", "/v1/batches", True),
        ("POST", "/v1/batches/x/y/cancel", True),
        ("POST", "/v1/batches/x/cancel", False),
        ("POST", "/health", False),
        ("GET", "/v1/jobs", False),
        ("DELETE", "/v1/jobs/x", False),
    ],
)
def test_what_counts(method: str, path: str, counts: bool) -> None:
    assert is_counted({"method": method, "path": path}) is counts


def test_a_client_has_so_many_requests_at_once_and_others_theirs(tmp_path: Path) -> None:
    keys = [{"name": name, "sha256": ApiKey.of(name, key).sha256} for name, key in KEYS.items()]

    async def ask(server: Any) -> None:
        async with httpx.AsyncClient(timeout=20) as client:
            slow = [asyncio.create_task(client.post(server.url("/v1/slow"), headers=as_holder("a"))) for _ in range(2)]
            await asyncio.sleep(0.5)
            refused = await client.post(server.url(PATH), json=BODY, headers=as_holder("a"))
            assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
            assert (await client.get(server.url("/v1/models"), headers=as_holder("a"))).status_code == 200
            assert (await client.post(server.url(PATH), json=BODY, headers=as_holder("b"))).status_code == 200
            slow[0].cancel()  # who goes away makes room
            await asyncio.sleep(0.5)
            assert (await client.post(server.url(PATH), json=BODY, headers=as_holder("a"))).status_code == 200
            assert (await slow[1]).status_code == 504

    with small_server(tmp_path, keys=keys, concurrent=2, request_timeout_s=4.0) as server:
        asyncio.run(ask(server))


def test_without_keys_an_address_has_a_minute_and_a_network_of_ipv6_too() -> None:
    app = guarded(small_app(), GuardConfig(requests_per_minute=1))

    def ask(address: str) -> int:
        with TestClient(app, base_url="http://localhost", client=(address, 1)) as client:
            return int(client.post(PATH, json=BODY).status_code)

    assert [ask("10.0.0.1"), ask("10.0.0.1"), ask("10.0.0.2")] == [200, 429, 200]
    assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:0:1::1")] == [200, 429, 200]
    assert [ask("somewhere"), ask("elsewhere")] == [200, 429]


def test_threads_that_ask_at_once_get_no_more_than_the_limit(client: TestClient) -> None:
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post(PATH, json=BODY, headers=as_holder("a")).status_code)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 30
    assert statuses.count(200) == 3 and statuses.count(429) == 17
