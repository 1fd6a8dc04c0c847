"""Web pages can't drive a service that has no keys."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.serving.http.small_app import small_app
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.keys import ApiKey

BODY = {"prompt": "a"}
PATH = "/v1/images/generations"


def client_of(**config: object) -> TestClient:
    return TestClient(guarded(small_app(), GuardConfig.model_validate(config)), base_url="http://localhost:8000")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000")),
        ("x2i.internal:8000", 200),
        *((host, 403) for host in ("evil.example.com", "evil.example.com:8000", "10.0.0.1", "localhost.evil.com")),
        *((host, 403) for host in ("", "localhost@evil.com", "[::1", "user@", "127.0.0.1.evil.com")),
    ],
)
def test_a_name_that_was_made_to_resolve_to_loopback_is_refused(host: str, status: int) -> None:
    answer = client_of(trusted_hosts=["x2i.internal"]).get("/health", headers={"Host": host})
    assert answer.status_code == status
    assert status == 200 or answer.json()["error"]["code"] == "untrusted_host"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_cannot_post(headers: dict[str, str]) -> None:
    answer = client_of().post(PATH, json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "untrusted_origin")
    assert client_of().delete("/v1/jobs", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://localhost:8000"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_programs_and_the_page_of_the_service_can(headers: dict[str, str]) -> None:
    assert client_of().post(PATH, json=BODY, headers=headers).status_code == 200


def test_there_is_no_cors_unless_sites_are_named() -> None:
    origin = {"Origin": "https://app.example.com"}
    preflight = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert "access-control-allow-origin" not in client_of().get("/health", headers=origin).headers
    assert client_of().options(PATH, headers=preflight).status_code == 405
    open_to_one = client_of(cors_origins=["https://app.example.com"], keys=[ApiKey.of("a", "k" * 20)])
    answer = open_to_one.options(PATH, headers=preflight)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
    refused = open_to_one.post(PATH, json=BODY, headers=origin)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example.com")
    other = open_to_one.get("/health", headers={"Origin": "https://other.example.com"})
    assert "access-control-allow-origin" not in other.headers


def test_a_named_site_may_use_a_service_without_keys() -> None:
    client = client_of(cors_origins=["https://app.example.com"])
    assert client.post(PATH, json=BODY, headers={"Origin": "https://app.example.com"}).status_code == 200
    assert client.post(PATH, json=BODY, headers={"Origin": "https://app.example.com.evil.com"}).status_code == 403
