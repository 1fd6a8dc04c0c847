"""Jobs: a life that always ends, an owner's own, and records that outlive the service."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.serving.by_hand import ByHand, asked, by_hand, until
from x2i_platform.config import Recipe
from x2i_platform.errors import InputError
from x2i_platform.serving import jobs as module
from x2i_platform.serving.jobs import Job, Jobs
from x2i_platform.serving.queue import QueueFullError
from x2i_platform.serving.service import NoReplicaError
from x2i_platform.serving.travel import Progress


def kept(recipe: Recipe, folder: Path, *, slots: int = 8, limit: int = 8) -> tuple[Jobs, ByHand]:
    service, backend = by_hand(recipe, slots=slots, limit=limit)
    return Jobs(service, folder=folder), backend


def record(job: Job, folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / f"{job.id}.json").read_text())
    return found


async def test_a_job_is_queued_runs_and_succeeds(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path, slots=1)
    first, second = (jobs.submit(asked(n=2, seed=seed, num_inference_steps=4), owner="ann") for seed in (1, 5))
    await until(lambda: first.step)
    assert (first.status, first.step, first.steps, first.queue_position) == ("running", 1, 4, None)
    assert jobs.get(second.id, owner="ann") is second
    assert (second.status, second.queue_position, second.started_at) == ("queued", 0, None)
    assert record(second, tmp_path)["status"] == "queued", "it is on disk before it is answered"
    backend.go.set()
    await until(lambda: first.finished and second.finished)
    for job, seeds in ((first, [1, 2]), (second, [5, 6])):
        assert (job.status, job.step, job.error, job.version) == ("succeeded", 4, None, "models:/toy/1")
        assert record(job, tmp_path)["status"] == "succeeded"
        assert [entry["seed"] for entry in json.loads(jobs.result(job))["data"]] == seeds
        assert job.started_at and job.finished_at and job.created_at <= job.started_at <= job.finished_at
    body = first.body()
    assert "owner" not in body
    assert isinstance(body["finished_at"], int)


async def test_a_job_is_as_far_as_the_image_that_is_furthest_behind(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path)
    job = jobs.submit(asked(n=2, seed=7), owner="")
    await until(lambda: len(backend.watchers) == 2)
    for seed, step, furthest in ((7, 9, 1), (8, 4, 4), (7, 10, 4), (8, 12, 10)):
        backend.watchers[0](Progress(seed, step, 28))
        assert job.step == furthest
    await jobs.cancel(job)


async def test_nobody_but_the_owner_sees_a_job(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, _ = kept(mini_recipe, tmp_path)
    mine, later, theirs = (jobs.submit(asked(), owner=owner) for owner in ("ann", "ann", "bob"))
    assert jobs.list(owner="ann") == [later, mine]
    assert jobs.list(owner="bob") == [theirs]
    assert jobs.list(owner="") == []
    assert jobs.get(theirs.id, owner="ann") is None
    assert jobs.get("job_nothing", owner="ann") is None
    await jobs.close()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("part 1: no picture"), "part 1: no picture"),
        (NoReplicaError(), "no replica of the model is running; try again later"),
        (RuntimeError("/srv/secret.py"), "the image could not be made"),
    ],
)
async def test_a_failed_job_says_why_and_nothing_private(
    mini_recipe: Recipe, tmp_path: Path, error: Exception, message: str
) -> None:
    jobs, backend = kept(mini_recipe, tmp_path)
    backend.draw_failures.append(error)
    job = jobs.submit(asked(), owner="")
    await until(lambda: job.finished)
    assert job.status == "failed"
    assert job.error and job.error["message"] == message
    assert record(job, tmp_path)["error"] == job.error


async def test_a_job_is_cancelled_in_the_queue_at_work_and_before_it_began(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path, slots=1)
    running, queued = (jobs.submit(asked(), owner="") for _ in range(2))
    await until(lambda: backend.at_work)
    just_now = jobs.submit(asked(), owner="")
    for job in (just_now, queued, running):
        await jobs.cancel(job)
        assert (job.status, job.queue_position) == ("cancelled", None)
        assert record(job, tmp_path)["status"] == "cancelled"
        with pytest.raises(FileNotFoundError):
            jobs.result(job)
    assert (backend.at_work, len(backend.drawings)) == (0, 1)
    assert (jobs.service.queue.working, len(jobs.service.queue)) == (0, 0)
    await jobs.cancel(running)
    assert jobs.get(running.id, owner="") is None, "a finished one is forgotten"
    assert not (tmp_path / f"{running.id}.json").exists()


async def test_a_result_that_is_forgotten_leaves_no_file(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path)
    backend.go.set()
    job = jobs.submit(asked(), owner="")
    await until(lambda: job.finished)
    await jobs.cancel(job)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_records_outlive_the_service_and_what_was_unfinished_has_failed(
    mini_recipe: Recipe, tmp_path: Path
) -> None:
    jobs, backend = kept(mini_recipe, tmp_path, slots=1)
    backend.go.set()
    done = [jobs.submit(asked(), owner="ann") for _ in range(3)]
    await until(lambda: all(job.finished for job in done))
    backend.go.clear()
    unfinished = jobs.submit(asked(), owner="ann")  # and then the service is killed

    again, _ = kept(mini_recipe, tmp_path)
    assert [job.id for job in again.list(owner="ann")] == [job.id for job in (unfinished, *reversed(done))]
    assert [job.status for job in again.list(owner="ann")] == ["failed", *["succeeded"] * 3]
    assert again.list(owner="bob") == []
    failed = again.get(unfinished.id, owner="ann")
    assert failed and failed.error and failed.error["message"] == "the service was stopped"
    assert record(failed, tmp_path)["status"] == "failed"
    assert again.result(done[0]) == jobs.result(done[0])
    await jobs.close()


async def test_a_stopping_service_hands_jobs_back_as_failed(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path, slots=1)
    handed = [jobs.submit(asked(), owner="") for _ in range(3)]
    await until(lambda: backend.at_work)
    closing = asyncio.create_task(jobs.close())
    await asyncio.sleep(0)
    backend.watchers[0](Progress(1, 2, 28))  # a step that was on its way
    await closing
    for job in handed:
        assert (job.status, record(job, tmp_path)["status"]) == ("failed", "failed")
        assert job.error and job.error["message"] == "shutting down"
    assert (backend.at_work, jobs.service.queue.working) == (0, 0)


async def test_finished_jobs_are_kept_for_a_time_and_up_to_a_number(
    mini_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 3)
    jobs, backend = kept(mini_recipe, tmp_path)
    backend.go.set()
    made = []
    for _ in range(5):
        made.append(jobs.submit(asked(), owner=""))
        await until(lambda: made[-1].finished)
    assert [job.id for job in jobs.list(owner="")] == [job.id for job in reversed(made[1:])]
    assert len(list(tmp_path.glob("job_*.json"))) == 4
    made[2].finished_at = time.time() - module.KEEP_S - 1
    last = jobs.submit(asked(), owner="")
    assert [job.id for job in jobs.list(owner="")] == [last.id, *(made[number].id for number in (4, 3, 1))]
    await jobs.close()


async def test_files_that_are_no_records_are_left_alone(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path)
    backend.go.set()
    job = jobs.submit(asked(), owner="ann")
    await until(lambda: job.finished)
    good = (tmp_path / f"{job.id}.json").read_bytes()
    damaged = {
        "job_empty.json": b"",
        "job_half.json": good[: len(good) // 2],
        "job_list.json": b"[1]",
        "job_deep.json": b"[" * 100_000,
        "job_binary.json": b"\xff\xfe",
        "job_types.json": json.dumps({**json.loads(good), "id": "job_types", "finished_at": "soon"}).encode(),
        "job_copy.json": good,
        "job_elsewhere.json": json.dumps({**json.loads(good), "id": "../precious"}).encode(),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "job_folder.json").mkdir()
    again, _ = kept(mini_recipe, tmp_path)
    assert [each.id for each in again.list(owner="ann")] == [job.id]
    assert {name: (tmp_path / name).read_bytes() for name in damaged} == damaged


async def test_a_job_that_is_refused_or_cannot_be_recorded_leaves_nothing(mini_recipe: Recipe, tmp_path: Path) -> None:
    jobs, backend = kept(mini_recipe, tmp_path / "jobs", slots=1, limit=0)
    (tmp_path / "jobs").rmdir()
    (tmp_path / "jobs").write_text("in the way")
    with pytest.raises(OSError):
        jobs.submit(asked(), owner="")
    await until(lambda: not jobs.service.queue.working)
    assert (jobs.list(owner=""), backend.at_work) == ([], 0)
    (tmp_path / "jobs").unlink()
    job = jobs.submit(asked(), owner="")
    with pytest.raises(QueueFullError):
        jobs.submit(asked(), owner="")
    assert jobs.list(owner="") == [job]
    await jobs.close()
