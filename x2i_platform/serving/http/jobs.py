"""`/v1/jobs`: images that are fetched later."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from x2i_platform.serving.api import GenerationRequest
from x2i_platform.serving.http.bodies import json_body, read_body
from x2i_platform.serving.http.errors import ApiError
from x2i_platform.serving.http.told import owner_of, tell
from x2i_platform.serving.jobs import Job, Jobs


def make_router(jobs: Jobs) -> APIRouter:
    """The routes of jobs."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    def find(job_id: str, request: Request) -> Job:
        job = jobs.get(job_id, owner=owner_of(request))
        if job is None:
            raise ApiError(404, f"there is no job {job_id[:100]!r}", code="not_found")
        tell(request, job=job.id)
        return job

    @router.post("", status_code=202, openapi_extra=json_body(GenerationRequest))
    async def submit(request: Request) -> dict[str, Any]:
        """Accept a request, in the body of `/v1/images/generations`, to be made when its turn comes."""
        body = await read_body(request, GenerationRequest, may_fetch=jobs.service.may_fetch)
        if body.stream:
            raise ApiError(400, "stream: a job has no stream; ask for it again and again", param="stream")
        job = jobs.submit(body, owner=owner_of(request))
        tell(request, job=job.id, model=job.model, version=job.version, images=body.n, prompt=body.words)
        return job.body()

    @router.get("")
    async def all_jobs(request: Request) -> dict[str, Any]:
        """This key's jobs, the newest first."""
        return {"object": "list", "data": [job.body() for job in jobs.list(owner=owner_of(request))]}

    @router.get("/{job_id}")
    async def job(job_id: str, request: Request) -> dict[str, Any]:
        """Where a job is: its place in the queue, or its denoising step."""
        return find(job_id, request).body()

    @router.get("/{job_id}/result")
    async def result(job_id: str, request: Request) -> Response:
        """The images, as `/v1/images/generations` answers."""
        content = await asyncio.to_thread(_result, jobs, find(job_id, request))
        return Response(content, media_type="application/json")

    @router.delete("/{job_id}")
    async def cancel(job_id: str, request: Request) -> dict[str, Any]:
        """Cancel a job, between two denoising steps if it runs; forget one that is finished."""
        found = find(job_id, request)
        await jobs.cancel(found)
        return found.body()

    return router


def _result(jobs: Jobs, job: Job) -> bytes:
    """A job's answer. Raises ApiError if there is none, or none any more."""
    if job.status != "succeeded":
        raise ApiError(409, f"job {job.id} is {job.status}; it has no result", code="no_result")
    try:
        return jobs.result(job)
    except OSError:  # it was forgotten meanwhile, or somebody tidied up
        raise ApiError(404, f"the result of job {job.id} is gone", code="not_found") from None
