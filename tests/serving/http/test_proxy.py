"""What Ray Serve's proxy is told, in a process of its own, and around Ray Serve's own layer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from ray.serve._private.http_util import RequestIdMiddleware

from x2i_platform.serving.http.proxy import CALLBACK, VARIABLE, Rails


@pytest.fixture
def client() -> TestClient:
    """The layer around Ray Serve's, and an application that gives its own id, as the audited one does."""
    app = FastAPI()

    @app.get("/{path:path}")
    def headers(request: Request, response: Response) -> dict[str, Any]:
        response.headers["X-Request-Id"] = request.headers["x-request-id"]
        return {"path": request.url.path, "headers": dict(request.headers)}

    return TestClient(Rails(RequestIdMiddleware(app)))


def test_clients_give_the_proxy_no_orders(client: TestClient) -> None:
    orders = {
        "X-Request-Disconnect-Disabled": "?1",
        "x-request-timeout-seconds": "-1",
        "Serve_Multiplexed_Model_Id": "a",
    }
    got = client.get("/a", headers={**orders, "X-Other": "b"}).json()["headers"]
    assert got["x-other"] == "b" and not {name.lower() for name in orders} & set(got)


def test_an_answer_has_one_id_which_is_the_clients_if_it_is_safe(client: TestClient) -> None:
    answers = [
        client.get("/a", headers=headers) for headers in ({"X-Request-Id": "mine.1"}, {"X-Request-Id": "a b"}, {})
    ]
    ids = [answer.headers.get_list("x-request-id") for answer in answers]
    assert ids[0] == ["mine.1"]
    assert len(ids[1]) == len(ids[2]) == 1 and ids[1] != ["a b"]


def test_nobody_is_told_what_runs_there(client: TestClient) -> None:
    paths = [client.get(path).json()["path"] for path in ("/-/routes", "/-/routes/", "/-/healthz", "/v1/models")]
    assert paths == ["/-/nowhere", "/-/nowhere", "/-/healthz", "/v1/models"]


def test_what_is_no_request_passes() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(Rails(app)({"type": "lifespan"}, None, None))
    assert seen == [{"type": "lifespan"}]


def test_ray_serve_finds_and_takes_the_function() -> None:
    code = (
        "import uvicorn; from ray._common.utils import import_attr; "
        f"from ray.serve._private.constants import {VARIABLE} as path; layers = import_attr(path)(); "
        "config = uvicorn.Config(lambda: None, factory=True); config.load(); "
        "print(config.http_protocol_class.__name__, [layer.cls.__name__ for layer in layers])"
    )
    environment = {VARIABLE: CALLBACK, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split("\n")[-2:-1] == ["BoundedHeads ['Rails']"], done.stderr
