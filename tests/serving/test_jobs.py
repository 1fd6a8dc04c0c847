"""Jobs: their life, their owners, and what is left of them when the service is gone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.serving.test_service import Replicas, asked, service_of
from x2i_platform.serving import jobs as module
from x2i_platform.serving.catalogue import Offer
from x2i_platform.serving.jobs import Jobs
from x2i_platform.serving.pinned import pin_model


@pytest.fixture
def offer(model_folder: Path) -> Offer:
    return Offer(*pin_model(str(model_folder), tracking_uri=""))


async def ended(jobs: Jobs, job_id: str, *, owner: str = "me") -> str:
    while True:
        job = jobs.get(job_id, owner=owner)
        assert job
        if job.finished:
            return job.status
        await asyncio.sleep(0.005)


async def test_a_job_is_queued_runs_and_has_a_result(offer: Offer, tmp_path: Path) -> None:
    backend = Replicas()
    jobs = Jobs(service_of(offer, backend), folder=tmp_path)
    first, second = (jobs.submit(asked(seed=seed), owner="me") for seed in (1, 2))
    await asyncio.sleep(0.01)
    assert jobs.get(first.id, owner="me").queue_position is None  # type: ignore[union-attr]
    waiting = jobs.get(second.id, owner="me")
    assert waiting and (waiting.status, waiting.queue_position) == ("queued", 0)
    assert jobs.get(first.id, owner="you") is None
    assert [job.id for job in jobs.list(owner="me")] == [second.id, first.id]
    assert jobs.list(owner="you") == []
    backend.go.set()
    assert [await ended(jobs, job.id) for job in (first, second)] == ["succeeded", "succeeded"]
    body = json.loads(jobs.result(first))
    assert (body["data"][0]["seed"], body["version"]) == (1, "untrained")
    shown = first.body()
    assert "owner" not in shown
    assert (shown["object"], shown["step"], shown["steps"]) == ("job", 2, 2)


async def test_a_job_that_fails_says_why(offer: Offer, tmp_path: Path) -> None:
    backend = Replicas(deaths=9)
    backend.go.set()
    jobs = Jobs(service_of(offer, backend, limit=9), folder=tmp_path)
    lost, unreadable = jobs.submit(asked(), owner="me"), jobs.submit(asked("unreadable"), owner="me")
    assert [await ended(jobs, job.id) for job in (lost, unreadable)] == ["failed", "failed"]
    assert lost.error and lost.error["message"] == "no replica of the model is running; try again later"
    assert unreadable.error and unreadable.error["message"] == "it can't be read"


async def test_a_job_is_cancelled_while_it_waits_and_works_and_forgotten_afterwards(
    offer: Offer, tmp_path: Path
) -> None:
    backend = Replicas()
    service = service_of(offer, backend)
    jobs = Jobs(service, folder=tmp_path)
    working, waiting = (jobs.submit(asked(), owner="me") for _ in range(2))
    at_once = jobs.submit(asked(), owner="me")
    await jobs.cancel(at_once)  # before its first step
    await asyncio.sleep(0.01)
    await jobs.cancel(waiting)
    await jobs.cancel(working)
    assert [job.status for job in (working, waiting, at_once)] == ["cancelled"] * 3
    assert (backend.at_work, service.queue.working, len(service.queue)) == (0, 0, 0)
    await jobs.cancel(working)
    assert jobs.get(working.id, owner="me") is None
    assert not (tmp_path / f"{working.id}.json").exists()


async def test_records_outlive_the_service_and_unfinished_jobs_are_failed(offer: Offer, tmp_path: Path) -> None:
    backend = Replicas()
    jobs = Jobs(service_of(offer, backend), folder=tmp_path)
    killed = jobs.submit(asked(), owner="me")
    (tmp_path / "job_damaged.json").write_text("{")
    later = Jobs(service_of(offer, Replicas()), folder=tmp_path)  # as after a kill -9
    found = later.get(killed.id, owner="me")
    assert found and found.error
    assert (found.status, found.error["message"]) == ("failed", "the service was stopped")
    assert (tmp_path / "job_damaged.json").read_text() == "{"
    await jobs.close()
    assert killed.error and killed.error["message"] == "shutting down"


async def test_finished_jobs_are_kept_within_bounds(
    offer: Offer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    backend = Replicas()
    backend.go.set()
    jobs = Jobs(service_of(offer, backend), folder=tmp_path)
    ids = []
    for _ in range(4):
        ids.append(jobs.submit(asked(), owner="me").id)
        await ended(jobs, ids[-1])
    assert [job.id for job in jobs.list(owner="me")] == [ids[3], ids[2], ids[1]]
    assert len(list((tmp_path / "results").iterdir())) == 3
    monkeypatch.setattr(module, "KEEP_S", -1.0)
    assert Jobs(jobs.service, folder=tmp_path).list(owner="me") == []
