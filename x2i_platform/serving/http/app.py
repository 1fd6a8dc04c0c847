"""The HTTP application: every route, and errors in OpenAI's form. Guard rails are wrapped around it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI

from x2i_platform.serving.http import errors, images, jobs, playground, status
from x2i_platform.serving.http.counted import Counted
from x2i_platform.serving.jobs import Jobs
from x2i_platform.serving.service import Service

DESCRIPTION = "Images from any prompt a multimodal LLM understands, in OpenAI's images schema."


def make_app(
    service: Service,
    kept: Jobs,
    *,
    routers: Sequence[APIRouter] = (),
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    problems: Mapping[str, str] | None = None,
) -> FastAPI:
    """The application of a service; `routers` are those of parts that need more than the service.

    `background` runs as long as the application does. When that ends, what is left of requests and jobs fails.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each()) for each in background]
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
    own = (
        images.make_router(service),
        jobs.make_router(kept),
        playground.make_router(),
        status.make_router(service, started_at=int(time.time()), problems=problems or {}),
    )
    for router in (*own, *routers):
        api.include_router(router)
    api.add_middleware(Counted, metrics=service.metrics)
    return api
