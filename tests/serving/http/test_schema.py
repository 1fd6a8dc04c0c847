"""What the OpenAPI document promises: schemathesis makes requests of it, right ones and wrong ones.

To aim it at another application, define the fixture `served` otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from starlette.types import ASGIApp

from tests.serving.http.small_app import small_app
from x2i_platform.serving.http.guards import GuardConfig, guarded

EXAMPLES = 100
"""Requests of each route and kind."""
HOST = {"Host": "localhost"}


@pytest.fixture
def served() -> ASGIApp:
    return guarded(small_app(misbehaving=False), GuardConfig(requests_per_minute=10**6))


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_of_the_document_is_a_server_error(served: ASGIApp, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_asgi("/openapi.json", served, headers=HOST)
    statuses: dict[str, set[int]] = {}
    for operation in document.get_all_operations():
        assert isinstance(operation, Ok), operation
        statuses |= ask(operation.ok(), mode=mode)
    made = "POST /v1/images/generations"
    assert 400 in statuses[made]
    assert mode is GenerationMode.NEGATIVE or 200 in statuses[made]


def ask(operation: Any, *, mode: GenerationMode, examples: int = EXAMPLES) -> dict[str, set[int]]:
    """Statuses of answers to requests that the document describes, or forbids."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def asked(case: Any) -> None:
        answer = case.call(headers=HOST)
        case.validate_response(answer, checks=[not_a_server_error])
        statuses.add(answer.status_code)
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["message"] and set(error) == {"message", "type", "param", "code"}, answer.text
            assert answer.headers["x-request-id"]

    try:
        asked()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "the document describes no request"  # nothing of it can be wrong
    return {operation.label: statuses}
