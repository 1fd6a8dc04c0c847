"""A service whose images come when a test says so, or fail as it says: for what a service does with its requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from x2i_platform.config import Recipe
from x2i_platform.serving.api import GenerationRequest
from x2i_platform.serving.catalogue import Catalogue, Offer
from x2i_platform.serving.metrics import Metrics
from x2i_platform.serving.pinned import Pinned
from x2i_platform.serving.queue import Queue
from x2i_platform.serving.service import Service
from x2i_platform.serving.travel import Drawing, Drawn, Progress, Wanted, Watcher

SECONDS = {"wait": 0.0, "denoise": 0.1, "write": 0.0}
WAIT_S = 10


class ByHand:
    """Draws while `go` is set. What stands in `failures` is raised by the next draws or reads, one each."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.draw_failures: deque[Exception] = deque()
        self.encode_failures: deque[Exception] = deque()
        self.wanted: list[Wanted] = []
        self.drawings: list[Drawing] = []
        self.watchers: list[Watcher] = []
        self.at_work = 0

    async def load(self, model: Pinned) -> None:
        raise NotImplementedError

    async def encode(self, wanted: Wanted) -> list[str]:
        self.wanted.append(wanted)
        if self.encode_failures:
            raise self.encode_failures.popleft()
        return [f"conditioning {seed}" for seed in (wanted.seeds if wanted.drawn else wanted.seeds[:1])]

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None) -> Drawn:
        self.drawings.append(drawing)
        self.at_work += 1
        try:
            if watcher:
                self.watchers.append(watcher)
                watcher(Progress(drawing.seed, 1, drawing.settings.num_inference_steps))
            if self.draw_failures:
                raise self.draw_failures.popleft()
            await self.go.wait()
            return Drawn(b"image %d" % drawing.seed, drawing.seed, None, 1, SECONDS)
        finally:
            self.at_work -= 1

    async def ready(self) -> str | None:
        return None


def toy(recipe: Recipe, *, version: str = "models:/toy/1") -> Offer:
    """An offer without weights."""
    return Offer(Pinned("models:/toy@champion", version, content=version, base=None), recipe)


def by_hand(recipe: Recipe, *, slots: int = 8, limit: int = 8) -> tuple[Service, ByHand]:
    """A service by hand. Call it in the event loop that runs it."""
    backend = ByHand()
    queue = Queue(slots=slots, limit=limit)
    return Service(Catalogue([toy(recipe)]), backend, queue=queue, metrics=Metrics()), backend


def asked(prompt: str = "a red circle", **fields: object) -> GenerationRequest:
    """A request."""
    return GenerationRequest.model_validate({"prompt": prompt, **fields})


async def until(condition: Callable[[], object]) -> None:
    """Wait until a function returns what is true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.001)
