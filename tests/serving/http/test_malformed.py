"""Ten thousand wrong requests to the service with real models behind its guard rails: each is refused with a reason."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serving import local_service
from tests.serving.line_runner import LineRunner
from tests.serving.local_service import Parts, Running
from tests.serving.malformed import Malformed, malformed, wrong_with
from x2i_platform.serving.batches import Batches
from x2i_platform.serving.files import FileStore
from x2i_platform.serving.http.app import make_app
from x2i_platform.serving.http.guards import GuardConfig, guarded

MB = 1024**2
GUARDS = GuardConfig(requests_per_minute=10**6, max_body_bytes=4 * MB)
WARM_UP = 300
"""Requests after which a process has loaded what it loads once: decoders, patterns, buffers."""
FLAT = 48 * MB


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("state")

    def make() -> Parts:
        parts = local_service.local_service(model_folder, state)
        files, find = FileStore(state / "files"), parts.service.catalogue.pinned
        batches = Batches(files, LineRunner([]), folder=state / "batches", find=find)
        app = make_app(parts.service, parts.jobs, batches=batches)
        return dataclasses.replace(parts, app=guarded(app, GUARDS))

    with local_service.running(make) as server:
        yield server


def problems(url: str, requests: Iterator[Malformed]) -> list[str]:
    found = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for request in requests:
            answer = client.request(request.method, request.path, content=request.body, headers=request.headers)
            if problem := wrong_with(request, answer.status_code, answer.content):
                found.append(problem)
    return found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [250, pytest.param(10_000, marks=pytest.mark.slow)])
def test_wrong_requests_are_refused_with_a_reason_and_leave_memory_flat(served: Running, count: int) -> None:
    process = psutil.Process(os.getpid())
    assert not problems(served.url, malformed(WARM_UP, seed=1))
    before = process.memory_info().rss
    assert not problems(served.url, malformed(count, seed=0))
    assert process.memory_info().rss - before < FLAT
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_requests_are_the_same_for_the_same_seed() -> None:
    assert list(malformed(50, seed=3)) == list(malformed(50, seed=3)) != list(malformed(50, seed=4))
