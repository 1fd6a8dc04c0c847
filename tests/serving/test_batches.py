"""The life of batches: turns, ends, kills in between, and what their owners are shown."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving.line_runner import PINNED, URL, LineRunner, batch_file
from x2i_platform.serving import batches as module
from x2i_platform.serving.batch_records import Batch
from x2i_platform.serving.batches import Batches, BatchRefusedError
from x2i_platform.serving.files import FileStore, StoredFile


class Desk:
    """A service's batches, which can be killed and started again on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []
        self.start()

    def start(self, *, at_once: int = 1, **runner: Any) -> None:
        self.files = FileStore(self.folder / "files")
        self.runner = LineRunner(self.made, **runner)
        self.batches = Batches(
            self.files,
            self.runner,
            folder=self.folder / "batches",
            find=lambda name: PINNED if name in (None, "m") else None,
            at_once=at_once,
        )

    def upload(self, content: bytes, *, owner: str = "me") -> StoredFile:
        with self.files.incoming() as upload:
            upload.write(content)
            return self.files.keep(upload, filename="in.jsonl", purpose="batch", owner=owner)

    def create(self, *prompts: str, owner: str = "me", hours: int = 24) -> Batch:
        file = self.upload(batch_file(*prompts), owner=owner)
        return self.batches.create(file, endpoint=URL, hours=hours, metadata={"k": "v"}, owner=owner)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.batches.step())

    def again(self, batch: Batch) -> Batch:
        found = self.batches.get(batch.id, owner=batch.owner)
        assert found
        return found

    def lines(self, file_id: str | None, *, owner: str = "me") -> list[dict[str, Any]]:
        assert file_id
        record = self.files.get(file_id, owner=owner)
        assert record
        return [json.loads(line) for line in self.files.path(record).read_text().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_from_validating_to_completed(desk: Desk) -> None:
    batch = desk.create("a", " ", "b")
    assert (batch.status, batch.body()["request_counts"]["total"]) == ("validating", 0)
    desk.step()
    assert (batch.status, batch.total, batch.body()["version"]) == ("in_progress", 3, "models:/m/3")
    desk.step(3)
    body = batch.body()
    assert body["status"] == "completed"
    assert body["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert (body["object"], body["metadata"], body["errors"]) == ("batch", {"k": "v"}, None)
    assert body["created_at"] <= body["in_progress_at"] <= body["finalizing_at"] <= body["completed_at"]
    assert [line["custom_id"] for line in desk.lines(body["output_file_id"])] == ["0", "2"]
    assert [line["custom_id"] for line in desk.lines(body["error_file_id"])] == ["1"]
    assert list((desk.folder / "batches" / "work").iterdir()) == []


def test_a_service_that_is_killed_at_any_time_goes_on(desk: Desk) -> None:
    batch = desk.create("a", "b", "c")
    for _ in range(12):  # a new service at every step
        desk.step()
        desk.start()
    assert desk.again(batch).status == "in_progress"  # each service only ever began
    desk.step(2)
    desk.start()
    desk.step(6)
    ended = desk.again(batch)
    assert (ended.status, ended.completed) == ("completed", 3)
    assert sorted(desk.made) == ["0", "1", "2"]
    assert len(desk.lines(ended.output_file_id)) == 3


@pytest.mark.parametrize("at", ["finish", "adopt", "write"])
def test_killed_while_it_writes_its_files_there_is_one_of_each(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    batch = desk.create("a", " ")
    desk.step(1)

    class Killed(BaseException):
        pass

    def killed_after(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> None:
            function(*words, **named)
            if batch.reserved:
                raise Killed

        return call

    owner, name = {
        "finish": (desk.runner, "finish"),
        "adopt": (desk.files, "adopt"),
        "write": (desk.batches, "_write"),
    }[at]
    monkeypatch.setattr(owner, name, killed_after(getattr(owner, name)))
    with pytest.raises(Killed):
        desk.step(4)
    monkeypatch.undo()
    desk.start()
    desk.step(2)
    ended = desk.again(batch)
    assert ended.status == "completed"
    found = {file.id for file in desk.files.list(owner="me", purpose="batch_output")}
    assert found == {ended.output_file_id, ended.error_file_id}
    assert desk.made == ["0"]


def test_one_after_the_other_in_the_order_they_came(desk: Desk) -> None:
    first, second = desk.create("a", "b"), desk.create("c")
    desk.step(2)
    assert (first.status, second.status) == ("in_progress", "validating")
    desk.step(4)
    assert (first.status, second.status) == ("completed", "completed")
    assert desk.runner.started == [first.id, second.id]


def test_several_at_once(desk: Desk) -> None:
    desk.start(at_once=2)
    three = [desk.create("a", "b") for _ in range(3)]
    desk.step()
    assert [batch.status for batch in three] == ["in_progress", "in_progress", "validating"]


def test_cancelled_before_it_began(desk: Desk) -> None:
    batch = desk.create("a")
    desk.batches.cancel(batch)
    desk.step()
    assert (batch.status, batch.output_file_id, desk.made) == ("cancelled", None, [])
    assert batch.cancelled_at


def test_cancelled_while_it_runs_keeps_what_is_made(desk: Desk) -> None:
    batch = desk.create("a", "b", "c")
    desk.step(2)
    desk.batches.cancel(batch)
    assert batch.status == "cancelling"
    desk.start()  # killed before it could stop
    desk.step()
    batch = desk.again(batch)
    assert (batch.status, batch.completed, batch.failed) == ("cancelled", 1, 2)
    assert [line["custom_id"] for line in desk.lines(batch.output_file_id)] == ["0"]
    errors = desk.lines(batch.error_file_id)
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert {line["response"] for line in errors} == {None}
    desk.batches.cancel(batch)
    assert batch.status == "cancelled"


def test_expired(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    running, waiting = desk.create("a", "b", hours=1), desk.create("c", hours=1)
    desk.step(2)
    later = time.time() + 3601
    monkeypatch.setattr(time, "time", lambda: later)
    desk.step(2)
    assert (running.status, waiting.status) == ("expired", "expired")
    assert [line["error"]["code"] for line in desk.lines(running.error_file_id)] == ["batch_expired"]
    assert running.expired_at
    assert desk.made == ["0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", "the file has 0 lines"),
        (b"{}\n" * 50_001, "50,001 lines; a batch has 1 to 50,000"),
        (json.dumps({"custom_id": "a", "body": {"model": "x"}}).encode(), "there is no model 'x' here"),
    ],
    ids=["empty", "long", "model"],
)
def test_a_file_that_is_no_batch_fails(desk: Desk, content: bytes, message: str) -> None:
    batch = desk.batches.create(desk.upload(content), endpoint=URL, hours=24, metadata=None, owner="me")
    desk.step()
    assert batch.status == "failed"
    assert message in batch.body()["errors"]["data"][0]["message"]


def test_a_model_that_cant_be_loaded_fails_without_saying_where_it_lies(desk: Desk) -> None:
    desk.start(broken=True)
    batch = desk.create("a")
    desk.step(2)
    assert batch.status == "failed"
    assert "/secret" not in json.dumps(batch.body())


def test_a_run_that_dies_again_and_again_fails(desk: Desk) -> None:
    desk.start(silent=True)
    batch = desk.create("a")
    for _ in range(module.MAX_DEATHS + 1):
        assert not batch.finished
        desk.step()
        desk.runner.tasks.clear()
    assert batch.status == "failed"
    assert len(desk.runner.started) == module.MAX_DEATHS


def test_nobody_sees_the_batches_of_another(desk: Desk) -> None:
    mine, other = desk.create("a"), desk.create("b", owner="other")
    assert desk.batches.get(other.id, owner="me") is None
    assert desk.batches.list(owner="me") == [mine]
    desk.step(6)
    assert desk.files.get(str(other.output_file_id), owner="me") is None
    assert len(desk.lines(other.output_file_id, owner="other")) == 1


def test_what_is_refused_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    file = desk.upload(batch_file("a"))
    with pytest.raises(BatchRefusedError, match="no endpoint of batches"):
        desk.batches.create(file, endpoint="/v1/chat/completions", hours=1, metadata=None, owner="me")
    batch = desk.batches.create(file, endpoint=URL, hours=1, metadata=None, owner="me")
    assert desk.batches.uses(file)
    monkeypatch.setattr(module, "MAX_UNFINISHED", 1)
    with pytest.raises(BatchRefusedError, match="waiting already"):
        desk.batches.create(file, endpoint=URL, hours=1, metadata=None, owner="me")
    desk.step(3)
    assert not desk.batches.uses(file)
    output = desk.files.get(str(batch.output_file_id), owner="me")
    assert output
    with pytest.raises(BatchRefusedError, match="not uploaded for a batch"):
        desk.batches.create(output, endpoint=URL, hours=1, metadata=None, owner="me")


def test_a_record_that_is_none_is_left_alone(desk: Desk) -> None:
    path = desk.folder / "batches" / "batch_odd.json"
    path.write_text("{")
    desk.start()
    assert path.exists()
    assert desk.batches.list(owner="me") == []
