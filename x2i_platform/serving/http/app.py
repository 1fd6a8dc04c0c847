"""The HTTP application: every route, and errors in OpenAI's form. Guard rails are wrapped around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from x2i_platform.serving.batches import Batches
from x2i_platform.serving.catalogue import Follower
from x2i_platform.serving.http import batches as batches_routes
from x2i_platform.serving.http import bodies, errors, images, jobs, playground, status
from x2i_platform.serving.http import files as files_routes
from x2i_platform.serving.http.counted import Counted
from x2i_platform.serving.http.told import owner_of
from x2i_platform.serving.jobs import Jobs
from x2i_platform.serving.service import Service

DESCRIPTION = "Images from any prompt a multimodal LLM understands, in OpenAI's images schema."


def make_app(
    service: Service, kept: Jobs, *, batches: Batches | None = None, follower: Follower | None = None
) -> FastAPI:
    """The application of a service; with files and batches, and following aliases, if those are given.

    When it ends, what is left of requests and jobs fails.
    """
    background = [each.run for each in (batches, follower) if each]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(run()) for run in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await kept.close()
            await service.close()

    api = FastAPI(title="x2i-platform", description=DESCRIPTION, lifespan=lifespan)
    errors.install(api)
    routers = [images.make_router(service), jobs.make_router(kept), playground.make_router()]
    problems = follower.problems if follower else {}
    routers.append(status.make_router(service, started_at=int(time.time()), problems=problems))
    if batches:
        routers.append(files_routes.make_router(batches.files, owner_of=owner_of, in_use=batches.uses))
        routers.append(batches_routes.make_router(batches, owner_of=owner_of))
    for router in routers:
        api.include_router(router)
    bodies.document(api)
    api.add_middleware(Counted, metrics=service.metrics)
    return api
