"""Answers are counted by the route's template and their status, also those that a bug leaves to the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from x2i_platform.serving.http.counted import Counted
from x2i_platform.serving.http.errors import install
from x2i_platform.serving.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def http(metrics: Metrics) -> Iterator[TestClient]:
    api = FastAPI()
    install(api)
    api.add_middleware(Counted, metrics=metrics)

    @api.get("/things/{name}")
    async def thing(name: str) -> str:
        return name

    @api.get("/bug")
    async def bug() -> None:
        raise LookupError

    @api.get("/late-bug")
    async def late_bug() -> StreamingResponse:
        def some() -> Iterator[bytes]:
            yield b"a part"
            raise LookupError

        return StreamingResponse(some())

    @api.get("/gone")
    async def gone() -> None:
        raise ClientDisconnect

    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/things/a", "/things/{name}", 200),
        ("/nowhere", "none", 404),
        ("/bug", "/bug", 500),
        ("/late-bug", "/late-bug", 200),
        ("/gone", "/gone", 499),
    ],
)
def test_an_answer_is_counted_once(http: TestClient, metrics: Metrics, path: str, route: str, status: int) -> None:
    http.get(path)
    counted = [line for line in metrics.text().decode().splitlines() if line.startswith("x2i_http_answers_total")]
    assert counted == [f'x2i_http_answers_total{{route="{route}",status="{status}"}} 1.0']
