"""A small application behind guard rails, in a process of its own: python small_app.py PORT GUARDS_AS_JSON.

It has the routes of the service, and validates what the service validates; nothing is drawn. Some routes misbehave.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp

from x2i_platform.serving.api import GenerationRequest
from x2i_platform.serving.http.errors import install
from x2i_platform.serving.http.guards import GuardConfig, guarded
from x2i_platform.serving.http.heads import BoundedHeads

SECRET_PATH = "/srv/secret/model.py"


def small_app(*, misbehaving: bool = True) -> FastAPI:
    """The application, without guard rails."""
    api = FastAPI()
    install(api)

    @api.get("/health")
    @api.get("/metrics")
    @api.get("/v1/models")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.post("/v1/images/generations")
    @api.post("/v1/jobs")
    async def generations(body: GenerationRequest, request: Request) -> dict[str, Any]:
        request.scope["state"]["audit"].update(images=body.n, prompt=body.prompt, status=999)
        return {"data": [], "n": body.n}

    @api.post("/v1/files")
    async def files(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.stream()])}

    @api.post("/v1/batches/{name}/cancel")
    async def cancel(name: str) -> dict[str, str]:
        return {"id": name}

    if misbehaving:
        add_misbehaviour(api)
    return api


def add_misbehaviour(api: FastAPI) -> None:
    """Routes of an application that is slow or has bugs."""

    @api.post("/v1/slow")
    @api.get("/slow")
    async def slow(request: Request) -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)

    @api.get("/events")
    async def events() -> StreamingResponse:
        async def endless() -> AsyncIterator[str]:
            for number in range(1000):
                yield f"data: {number}\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(endless(), media_type="text/event-stream")

    @api.get("/bug")
    async def bug() -> None:
        raise LookupError(SECRET_PATH)

    @api.get("/traceback")
    async def traceback() -> Response:
        return PlainTextResponse(f'File "{SECRET_PATH}", line 1', status_code=500)

    @api.get("/late-bug")
    async def late_bug() -> StreamingResponse:
        async def some() -> AsyncIterator[bytes]:
            yield b"a part"
            raise LookupError(SECRET_PATH)

        return StreamingResponse(some())


class QuickHeads(BoundedHeads):
    """Heads that have a second."""

    head_timeout_s = 1.0


def served(app: ASGIApp, *, port: int) -> None:
    """Serve until the process ends."""
    uvicorn.run(app, host="127.0.0.1", port=port, http=QuickHeads, log_level="warning", timeout_keep_alive=5)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    served(guarded(small_app(), GuardConfig(**json.loads(sys.argv[2]))), port=int(sys.argv[1]))
