"""`/v1/batches` as OpenAI's own client uses it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types import Batch

from tests.serving.http.openai_desk import Desk, running
from tests.serving.line_runner import URL, batch_file

END_TIMEOUT_S = 30


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running(tmp_path) as desk:
        yield desk


def create(client: openai.OpenAI, *prompts: str) -> Batch:
    file = client.files.create(file=("in.jsonl", batch_file(*prompts)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/images/generations",
        completion_window="24h",
        metadata={"night": "1"},
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    deadline = time.monotonic() + END_TIMEOUT_S
    while batch.status not in ("completed", "failed", "cancelled", "expired"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_openai_s_client_makes_a_batch_and_reads_what_it_left(desk: Desk) -> None:
    client = desk.client()
    batch = create(client, "a", " ", "b")
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", URL, "24h")
    batch = ended(client, batch)
    assert batch.status == "completed"
    assert batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    assert batch.metadata == {"night": "1"}
    assert batch.output_file_id
    assert batch.error_file_id
    output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in output] == ["0", "2"]
    [error] = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert error["custom_id"] == "1"
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_lists_come_in_pages(desk: Desk) -> None:
    client = desk.client()
    made = [create(client, "a").id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    assert list(desk.client("other").batches.list()) == []


def test_cancelling(tmp_path: Path) -> None:
    with running(tmp_path, silent=True) as desk:
        client = desk.client()
        batch = create(client, "a")
        while client.batches.retrieve(batch.id).status != "in_progress":
            time.sleep(0.02)
        with pytest.raises(openai.ConflictError, match="read by a batch"):
            client.files.delete(batch.input_file_id)
        assert client.batches.cancel(batch.id).status == "cancelling"
        assert ended(client, batch).status == "cancelled"
        assert client.files.delete(batch.input_file_id).deleted


def test_refusals(desk: Desk) -> None:
    client, other = desk.client(), desk.client("other")
    file = client.files.create(file=("in.jsonl", batch_file("a")), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        other.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
    with pytest.raises(openai.BadRequestError, match="no endpoint of batches") as refused:
        client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    assert refused.value.param == "endpoint"
    batch = create(client, "a")
    for call in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    for extra in ({"completion_window": "x"}, {"metadata": {"k": 1}}, {"more": 1}, {"metadata": {"k": "v" * 600}}):
        with pytest.raises(openai.BadRequestError, match=next(iter(extra))):
            client.post("/batches", cast_to=object, body={"input_file_id": file.id, "endpoint": URL, **extra})
