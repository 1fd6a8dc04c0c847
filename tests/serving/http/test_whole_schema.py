"""The whole service against its own OpenAPI document, with a backend that draws nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
import schemathesis
from schemathesis.generation import GenerationMode

from tests.serving import local_service
from tests.serving.by_hand import by_hand
from tests.serving.http.test_schema import ask
from tests.serving.line_runner import LineRunner
from tests.serving.local_service import Parts, Running
from x2i_platform.config import Recipe
from x2i_platform.serving.batches import Batches
from x2i_platform.serving.files import FileStore
from x2i_platform.serving.http.app import make_app
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.jobs import Jobs

ROUTES = 18
"""Routes and methods of the document, at least: none may be left out."""


@pytest.fixture(scope="module")
def served(mini_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("state")

    def make() -> Parts:
        service, backend = by_hand(mini_recipe, limit=64)
        backend.go.set()
        jobs = Jobs(service, folder=state / "jobs")
        batches = Batches(
            FileStore(state / "files"),
            LineRunner([]),
            folder=state / "batches",
            find=service.catalogue.pinned,
            poll_s=0.05,
        )
        return Parts(service, jobs, guarded(make_app(service, jobs, batches=batches), GuardConfig()))

    with local_service.running(make) as server:
        yield server


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("examples", [5, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_no_request_of_the_document_is_a_server_error(served: Running, mode: GenerationMode, examples: int) -> None:
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for operation in document.get_all_operations():
        statuses |= ask(cast(Any, operation).ok(), mode=mode, examples=examples)
    assert len(statuses) >= ROUTES
    assert statuses["POST /v1/images/generations"] <= {200, 400, 404, 415}
    queue = served.parts.service.queue
    time.sleep(0.2)
    assert served.call(lambda: (queue.working, len(queue))) == (0, 0)
