"""Files and batches behind a real HTTP server on loopback, as fixtures for OpenAI's client to talk to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from openai import OpenAI

from tests.conftest import free_port
from tests.serving.line_runner import PINNED, LineRunner
from x2i_platform.serving.batches import Batches
from x2i_platform.serving.files import FileStore
from x2i_platform.serving.http import batches, errors, files

START_TIMEOUT_S = 20


@dataclass(frozen=True)
class Desk:
    """A running server."""

    url: str
    store: FileStore
    batches: Batches
    runner: LineRunner

    def client(self, key: str = "me") -> OpenAI:
        """OpenAI's client; each key is an owner."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)


def owner_of(request: Request) -> str:
    return str(request.headers.get("authorization", "")).removeprefix("Bearer ")


@contextmanager
def running(folder: Path, *, max_file_bytes: int = 600 * 1024**2, silent: bool = False) -> Iterator[Desk]:
    store, runner = FileStore(folder / "files", max_file_bytes=max_file_bytes), LineRunner([], silent=silent)
    kept = Batches(store, runner, folder=folder / "batches", find=lambda _: PINNED, poll_s=0.05)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(kept.run())
        yield
        work.cancel()

    api = FastAPI(lifespan=lifespan)
    errors.install(api)
    api.include_router(files.make_router(store, owner_of=owner_of, in_use=kept.uses))
    api.include_router(batches.make_router(kept, owner_of=owner_of))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    try:
        yield Desk(f"http://127.0.0.1:{port}", store, kept, runner)
    finally:
        server.should_exit = True
        thread.join()
