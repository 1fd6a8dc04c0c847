"""Every refusal is OpenAI's error object."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from x2i_platform.serving.api import GenerationRequest
from x2i_platform.serving.http.errors import ApiError, install


@pytest.fixture
def client() -> TestClient:
    api = FastAPI()
    install(api)

    @api.get("/full")
    def full() -> None:
        raise ApiError(429, "the queue is full", kind="server_overloaded", retry_after_s=5)

    @api.post("/images")
    def images(request: GenerationRequest) -> None:
        pass

    return TestClient(api)


def test_a_refusal_has_its_status_reason_and_time_to_wait(client: TestClient) -> None:
    answer = client.get("/full")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")
    expected = {"message": "the queue is full", "type": "server_overloaded", "param": None, "code": None}
    assert answer.json() == {"error": expected}


def test_a_wrong_body_a_wrong_route_and_a_wrong_method_too(client: TestClient) -> None:
    wrong = client.post("/images", json={"prompt": ""})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "prompt")
    assert client.get("/nowhere").json()["error"]["message"] == "Not Found"
    refused = client.get("/images")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
