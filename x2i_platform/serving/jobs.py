"""Jobs: requests whose images are fetched later. Their records outlive the service. Free of Ray and of HTTP.

    FOLDER/job_….json           the record
    FOLDER/results/job_….json   the answer, once it has succeeded

Invariants: a job that was accepted ends as succeeded, failed or cancelled, also when the service is stopped or killed
meanwhile; a job is seen by nobody but its owner.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from x2i_platform.errors import X2IError
from x2i_platform.files import publish
from x2i_platform.serving.api import GenerationRequest, error_body, response_body
from x2i_platform.serving.service import NoReplicaError, Order, Service
from x2i_platform.serving.travel import Progress

KEEP_S = 24 * 3600.0
"""How long a finished job is kept."""
MAX_KEPT = 1000
"""Finished jobs that are kept; the oldest goes first."""
SHUTTING_DOWN = "shutting down"
STOPPED = "the service was stopped"
log = logging.getLogger(__name__)

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


@dataclass
class Job:
    """The record of a job, as clients see it."""

    id: str
    owner: str
    model: str
    version: str
    steps: int
    created_at: float
    status: Status = "queued"
    step: int = 0
    """Denoising steps done, of the image that is furthest behind."""
    queue_position: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    error: dict[str, Any] | None = None
    object: str = field(default="job")

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("succeeded", "failed", "cancelled")

    def body(self) -> dict[str, Any]:
        """What a client is shown."""
        shown = asdict(self)
        del shown["owner"]
        times = {name: shown[name] and int(shown[name]) for name in ("created_at", "started_at", "finished_at")}
        return shown | times


RECORD = TypeAdapter(Job)


class Jobs:
    """The jobs of a service."""

    def __init__(self, service: Service, *, folder: Path) -> None:
        """Read the records of a folder. Those that an earlier service left unfinished become failed."""
        self.service, self.folder = service, folder
        folder.mkdir(parents=True, exist_ok=True)
        found = [job for job in map(_read, folder.glob("job_*.json")) if job]
        self._jobs = {job.id: job for job in sorted(found, key=lambda job: job.created_at)}
        self._orders: dict[str, Order] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for job in self._jobs.values():
            if not job.finished:
                self._finish(job, "failed", message=STOPPED)
        self._forget_old()

    def submit(self, request: GenerationRequest, *, owner: str) -> Job:
        """Accept a job. Raises as `Service.submit` does."""
        behind: dict[int, int] = {}
        order = self.service.submit(request, watcher=lambda progress: _watch(job, behind, progress))
        behind.update(dict.fromkeys(order.seeds, 0))
        facts = order.offer.pinned.facts
        job = Job(
            id=f"job_{secrets.token_hex(12)}",
            owner=owner,
            model=facts["model"],
            version=facts["version"],
            steps=order.settings.num_inference_steps,
            created_at=time.time(),
        )
        self._forget_old()
        try:
            self._write(job)
        except OSError:
            order.work.cancel()
            raise
        self._jobs[job.id], self._orders[job.id] = job, order
        order.place.turn.add_done_callback(lambda turn: _start(job, turn))
        self._tasks[job.id] = asyncio.create_task(self._run(job, order))
        self._tasks[job.id].add_done_callback(lambda _: self._ended(job, order))
        return job

    def get(self, job_id: str, *, owner: str) -> Job | None:
        """An owner's job, with its place in the queue as it is now."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            return None
        order = self._orders.get(job_id)
        job.queue_position = order.place.position if order else None
        return job

    def list(self, *, owner: str) -> list[Job]:
        """An owner's jobs, the newest first."""
        found = [self.get(job_id, owner=owner) for job_id in reversed(self._jobs)]
        return [job for job in found if job]

    def result(self, job: Job) -> bytes:
        """The answer of a job that has succeeded, as JSON. Raises OSError if it is gone."""
        return self._result(job).read_bytes()

    async def cancel(self, job: Job) -> None:
        """Cancel a job, between denoising steps if it runs; forget one that is finished."""
        was_finished = job.finished
        if task := self._tasks.get(job.id):
            task.cancel()
            await asyncio.wait({task})
        if was_finished:
            self._forget(job)

    async def close(self) -> None:
        """End all jobs that are not finished as failed, because the service stops."""
        for job_id, task in list(self._tasks.items()):
            job = self._jobs[job_id]
            if not job.finished:
                self._finish(job, "failed", message=SHUTTING_DOWN)
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _run(self, job: Job, order: Order) -> None:
        try:
            drawn = await order.work
            body = response_body(drawn, request=order.request, size=order.size, facts=order.offer.pinned.facts)
            await asyncio.to_thread(publish, self._result(job), json.dumps(body).encode())
            job.step = job.steps
            self._finish(job, "succeeded")
        except X2IError as error:
            self._finish(job, "failed", message=str(error))
        except NoReplicaError:
            self._finish(job, "failed", message="no replica of the model is running; try again later")
        except Exception:
            log.exception("job %s failed", job.id)
            self._finish(job, "failed", message="the image could not be made")

    def _ended(self, job: Job, order: Order) -> None:
        order.work.cancel()
        del self._tasks[job.id], self._orders[job.id]
        if not job.finished:
            self._finish(job, "cancelled")

    def _finish(self, job: Job, status: Status, *, message: str | None = None) -> None:
        job.status, job.finished_at, job.queue_position = status, time.time(), None
        job.error = None if message is None else error_body(message, kind="server_error")["error"]
        self._write(job)

    def _write(self, job: Job) -> None:
        publish(self.folder / f"{job.id}.json", json.dumps(asdict(job)).encode(), durable=True)

    def _result(self, job: Job) -> Path:
        return self.folder / "results" / f"{job.id}.json"

    def _forget_old(self) -> None:
        finished = [job for job in self._jobs.values() if job.finished]
        too_many = len(finished) - MAX_KEPT
        for number, job in enumerate(sorted(finished, key=lambda job: job.finished_at or 0)):
            if number < too_many or time.time() - (job.finished_at or 0) > KEEP_S:
                self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        self._result(job).unlink(missing_ok=True)
        (self.folder / f"{job.id}.json").unlink(missing_ok=True)


def _watch(job: Job, behind: dict[int, int], progress: Progress) -> None:
    """Note the step of an image. `behind` holds the steps of each of the job's images, by seed."""
    behind[progress.seed] = progress.step
    job.step = min(behind.values())


def _start(job: Job, turn: asyncio.Future[None]) -> None:
    """Note that it is at work, unless it was given up before or ended meanwhile."""
    if not turn.cancelled() and not job.finished:
        job.status, job.started_at = "running", time.time()


def _read(path: Path) -> Job | None:
    """A record; None for a file that isn't one, which is left alone."""
    try:
        job = RECORD.validate_json(path.read_bytes())
    except (OSError, ValueError):
        job = None
    if job is None or job.id != path.stem:  # the record of another job would be forgotten with that one's files
        log.warning("%s is no record of a job", path.name)
        return None
    return job
