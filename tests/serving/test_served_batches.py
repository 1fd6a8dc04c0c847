"""A batch through a real `x2i-platform serve`, by OpenAI's client, while the service's own process is killed."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
from openai.types import Batch
from service_process import serving

TIMEOUT_S = 200
NUM_LINES = 30
ENDED = ("completed", "failed", "expired", "cancelled")


@dataclass
class Server:
    """A running service and its client."""

    client: openai.OpenAI
    state: Path

    def images(self, batch: Batch) -> dict[str, int]:
        found = (self.state / "batches" / "work" / batch.id / "images").glob("*.png")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def retrieve(self, batch: Batch) -> Batch | None:
        """None while the service is being started again."""
        with contextlib.suppress(openai.APIConnectionError, openai.InternalServerError):
            return self.client.batches.retrieve(batch.id)
        return None


@pytest.fixture
def server(model_folder: Path, ray_cluster: str, tmp_path: Path) -> Iterator[Server]:
    with serving(str(model_folder), folder=tmp_path, flags=(f"--address={ray_cluster}", "--grace=3")) as service:
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="-", max_retries=0, timeout=30)
        yield Server(client, service.state)


def processes(*words: str) -> list[psutil.Process]:
    """Of this test run, those whose command line has all words."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if all(word in " ".join(process.cmdline()) for word in words):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_batch_outlives_the_service_s_own_process(server: Server) -> None:
    lines = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/images/generations", "body": {"prompt": f"a {n}"}}
        for n in range(NUM_LINES)
    ]
    lines[3]["body"] = {"prompt": " "}
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = server.client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = server.client.batches.create(
        input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h"
    )
    deadline = time.monotonic() + TIMEOUT_S
    while len(server.images(batch)) < 3:
        assert time.monotonic() < deadline, server.retrieve(batch)
        time.sleep(0.02)
    [ingress] = processes("ray::ServeReplica", "Ingress")
    ingress.send_signal(signal.SIGKILL)
    before = server.images(batch)
    seen: dict[str, int] = {}
    ended = None
    while not (ended := server.retrieve(batch)) or ended.status not in ENDED:
        seen |= server.images(batch)
        assert time.monotonic() < deadline, ended
        time.sleep(0.05)
    assert ended.status == "completed", ended
    assert ended.request_counts
    assert (ended.request_counts.completed, ended.request_counts.failed) == (NUM_LINES - 1, 1)
    output = server.client.files.content(str(ended.output_file_id)).text.splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == [str(n) for n in range(NUM_LINES) if n != 3]
    [error] = server.client.files.content(str(ended.error_file_id)).text.splitlines()
    assert json.loads(error)["custom_id"] == "3"
    assert before.items() <= seen.items()
    time.sleep(2)
    assert not processes("ray::_Driver")
    assert not processes("ray::MapWorker")
