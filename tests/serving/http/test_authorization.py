"""Who may ask for what."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.serving.http.small_app import small_app
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.keys import ApiKey

KEY = "k" * 32


@pytest.fixture
def client() -> TestClient:
    keys = (ApiKey.of("alice", "a" * 32), ApiKey.of("bob", KEY))
    return TestClient(guarded(small_app(), GuardConfig(keys=keys)))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "an API key is needed"),
        ("", "an API key is needed"),
        ("Bearer", "an API key is needed"),
        (f"Basic {KEY}", "an API key is needed"),
        (KEY, "an API key is needed"),
        (f"Bearer {KEY}x", "there is no such API key"),
        (f"Bearer {KEY.upper()}", "there is no such API key"),
        ("Bearer schlüssel".encode("latin-1"), "there is no such API key"),
    ],
)
def test_without_a_right_key_there_is_no_answer(client: TestClient, header: str | bytes | None, message: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nowhere", "/%2F", "/playgrounds", "/health/"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        error = answer.json()["error"]
        assert error["message"].startswith(message)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert KEY not in answer.text


def test_holders_of_a_key_are_let_in_from_anywhere(client: TestClient) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        elsewhere = {"Host": "x2i.example.com", "Origin": "https://other.example.com"}
        answer = client.get("/v1/models", headers={"Authorization": f"{scheme} {KEY}", **elsewhere})
        assert answer.status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/ready", 404), ("/", 404), ("/playground/a.js", 404)])
def test_probes_and_the_page_need_no_key(client: TestClient, path: str, status: int) -> None:
    assert client.get(path).status_code == status


def test_without_keys_everything_is_open() -> None:
    client = TestClient(guarded(small_app(), GuardConfig()), base_url="http://127.0.0.1")
    assert client.get("/docs").status_code == client.get("/metrics").status_code == 200


def test_a_key_is_looked_at_before_a_body() -> None:
    config = GuardConfig(keys=(ApiKey.of("bob", KEY),), max_body_bytes=10)
    answer = TestClient(guarded(small_app(), config)).post("/v1/jobs", content=b"x" * 100)
    assert (answer.status_code, answer.headers["Connection"]) == (401, "close")
