"""A service with real models in this process, without Ray, behind a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from x2i_platform.generation.encoder import Encoded
from x2i_platform.serving.catalogue import Catalogue, Offer
from x2i_platform.serving.denoiser import Denoiser
from x2i_platform.serving.encoding import PromptEncoder
from x2i_platform.serving.http.app import make_app
from x2i_platform.serving.jobs import Jobs
from x2i_platform.serving.metrics import Metrics
from x2i_platform.serving.pinned import Pinned, pin_model
from x2i_platform.serving.queue import Queue
from x2i_platform.serving.service import Service
from x2i_platform.serving.travel import Drawing, Drawn, Wanted, Watcher

START_TIMEOUT_S = 30


class LocalBackend:
    """One encoder and one denoiser in this process."""

    def __init__(self, encoder: PromptEncoder, denoiser: Denoiser) -> None:
        self.encoder, self.denoiser = encoder, denoiser

    async def load(self, model: Pinned) -> None:
        await asyncio.to_thread(self.encoder.load, model)

    async def encode(self, wanted: Wanted) -> list[Encoded]:
        return await self.encoder.encode(wanted)

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None) -> Drawn:
        return await self.denoiser.draw(drawing, watcher=watcher)

    async def ready(self) -> str | None:
        return None


@dataclass
class Parts:
    """What a service is made of."""

    service: Service
    jobs: Jobs
    app: Callable[..., Awaitable[None]]


def local_service(folder: Path, state: Path, *, slots: int = 8, limit: int = 32, max_batch: int = 4) -> Parts:
    """A service of the model in a folder. Call it in the event loop that runs it."""
    offer = Offer(*pin_model(str(folder), tracking_uri=f"sqlite:///{state}/none.db"))
    encoder = PromptEncoder(offer.pinned, tracking_uri="", device="cpu", max_batch=max_batch)
    denoiser = Denoiser(offer.recipe.teacher, device="cpu", max_batch=max_batch)
    backend = LocalBackend(encoder, denoiser)
    service = Service(Catalogue([offer]), backend, queue=Queue(slots=slots, limit=limit), metrics=Metrics())
    jobs = Jobs(service, folder=state / "jobs")
    return Parts(service, jobs, make_app(service, jobs))


@dataclass
class Running:
    """A server, and what it serves. Touch the parts from its own loop alone."""

    url: str
    parts: Parts
    loop: asyncio.AbstractEventLoop

    def call(self, work: Callable[[], Any]) -> Any:
        """What a function returns in the server's loop."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(30)


@contextlib.contextmanager
def running(make: Callable[[], Parts]) -> Iterator[Running]:
    """An HTTP server on loopback in a thread, for the length of the block."""
    # Only with its protocol named does asyncio set TCP_NODELAY, without which answers wait 40 ms for acknowledgements.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        started: list[Running] = []

        async def serve() -> None:
            parts = make()
            server = uvicorn.Server(uvicorn.Config(parts.app, log_level="warning", lifespan="on"))
            started.append(Running(f"http://127.0.0.1:{port}", parts, asyncio.get_running_loop()))
            servers.append(server)
            await server.serve(sockets=[listener])

        servers: list[uvicorn.Server] = []
        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (servers and servers[0].started):
            assert thread.is_alive() and time.monotonic() < deadline, "the server didn't come up"
            time.sleep(0.02)
        try:
            yield started[0]
        finally:
            servers[0].should_exit = True
            thread.join(timeout=30)
