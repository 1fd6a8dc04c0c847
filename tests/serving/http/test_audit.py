"""A line a request, ids, and what every answer has."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.http.small_app import small_app
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.keys import ApiKey

PATH = "/v1/images/generations"
KEY = "k" * 32


def client_of(**config: Any) -> TestClient:
    return TestClient(guarded(small_app(), GuardConfig(**config)), base_url="http://localhost")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "x2i_platform.audit"]


def test_a_line_says_who_asked_for_what_and_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="x2i_platform.audit")
    client = client_of(keys=(ApiKey.of("alice", KEY),))
    answer = client.post(
        f"{PATH}?token=secret",
        json={"prompt": "a secret cat", "n": 2},
        headers={"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine.1"},
    )
    (line,) = lines(caplog)
    assert line.pop("seconds") < 5 and line.pop("time").endswith("Z")
    assert line == {
        "id": "mine.1",
        "key": "alice",
        "client": "testclient",
        "method": "POST",
        "route": PATH,
        "path": PATH,
        "status": 200,
        "bytes_in": len(answer.request.content),
        "bytes_out": len(answer.content),
        "disconnected": False,
        "images": 2,
    }
    assert KEY not in caplog.text and "secret" not in caplog.text


def test_prompts_are_logged_only_where_it_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="x2i_platform.audit")
    client_of(log_prompts=True).post(PATH, json={"prompt": "a cat\n{}"})
    assert lines(caplog)[0]["prompt"] == "a cat\n{}"
    assert "\n" not in caplog.records[-1].message


def test_refusals_and_bugs_have_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="x2i_platform.audit")
    client = client_of(keys=(ApiKey.of("alice", KEY),), max_body_bytes=10)
    as_alice = {"Authorization": f"Bearer {KEY}"}
    client.get("/v1/models")
    client.post(PATH, content="x" * 11, headers=as_alice)
    client.get("/nowhere%0A/x", headers=as_alice)
    client.get("/bug", headers=as_alice)
    told = [(line["status"], line["key"], line["route"]) for line in lines(caplog)]
    assert told == [(401, None, None), (413, "alice", None), (404, "alice", None), (500, "alice", "/bug")]


@pytest.mark.parametrize("id_", ["", "a b", "x" * 65, "a/b", "é", '"'])
def test_an_id_that_is_not_safe_is_replaced(id_: str) -> None:
    client = client_of()
    answers = [client.get("/health", headers={"X-Request-Id": id_.encode("latin-1")}) for _ in range(2)]
    ids = {answer.headers["X-Request-Id"] for answer in answers}
    assert len(ids) == 2 and all(each.startswith("req_") for each in ids)


def test_every_answer_has_an_id_and_headers_for_browsers() -> None:
    client = client_of(max_body_bytes=10)
    for answer in (
        client.get("/health"),
        client.get("/nowhere"),
        client.post(PATH, content="x" * 11),
        client.get("/bug"),
    ):
        assert answer.headers["X-Request-Id"].startswith("req_")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
