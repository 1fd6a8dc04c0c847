"""What a request goes through: a place in the queue, the encoder, the denoiser. Free of Ray and of HTTP.

    submit ──► (queue) ──► encode ──► draw each image

Invariants: a request is made by the one version of its model that was offered when it was accepted; whoever gives up
leaves nothing running and holds no slot.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from x2i_platform.config import GenerateConfig
from x2i_platform.generation.fetched import fetched
from x2i_platform.media.fetching import Fetcher
from x2i_platform.serving.api import MAX_SEED, GenerationRequest
from x2i_platform.serving.catalogue import Catalogue, Offer
from x2i_platform.serving.metrics import Metrics
from x2i_platform.serving.pinned import Pinned
from x2i_platform.serving.queue import Place, Queue
from x2i_platform.serving.travel import Drawing, Drawn, Wanted, Watcher

RANDOM_SEEDS = 2**32
"""Random seeds are below this: JavaScript reads whole numbers exactly up to 2**53."""


class Backend(Protocol):
    """Where the models run: replicas of a cluster, or this process."""

    async def load(self, model: Pinned) -> None:
        """Load a version wherever prompts are encoded, beside the others. Raises WeightsError or RegistryError."""

    async def encode(self, wanted: Wanted) -> list[Any]:
        """The conditioning of a prompt: one, or one for each seed if answers are drawn.

        Raises InputError for the prompt, and ReplicaLostError and NoReplicaError as `draw` does.
        """

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None) -> Drawn:
        """Draw an image. Raises ConfigError for a size, ReplicaLostError if the replica died, NoReplicaError if there
        is none."""

    async def ready(self) -> str | None:
        """None if the models are there and warm, otherwise what is missing."""


class NoModelError(Exception):
    """No model of the service has this name."""

    def __init__(self, name: str, *, offered: list[str]) -> None:
        super().__init__(f"there is no model {name[:100]!r} here; this service has {', '.join(map(repr, offered))}")


class NoReplicaError(Exception):
    """No replica of the models is running."""


class ReplicaLostError(Exception):
    """The replica that was at work died."""


class ShuttingDownError(Exception):
    """The service is about to stop."""


@dataclass(eq=False)
class Order:
    """A request that was accepted, and its work."""

    request: GenerationRequest
    offer: Offer
    settings: GenerateConfig
    seeds: tuple[int, ...]
    place: Place
    accepted_at: float = field(default_factory=time.monotonic)
    work: asyncio.Task[list[Drawn]] = field(init=False)
    """The images in the order of the seeds. Raises InputError for a prompt, ConfigError for a size that the models
    can't use, NoReplicaError. Cancelling it ends the work between two denoising steps."""

    @property
    def size(self) -> str:
        """Width and height as OpenAI writes them."""
        return f"{self.settings.width}x{self.settings.height}"


class Service:
    """One service: its models, its queue, and where the models run."""

    def __init__(
        self,
        catalogue: Catalogue,
        backend: Backend,
        *,
        queue: Queue,
        metrics: Metrics,
        fetcher: Fetcher | None = None,
    ) -> None:
        self.catalogue, self.backend, self.queue, self.metrics = catalogue, backend, queue, metrics
        self._fetcher = fetcher
        self.stopping = False
        self._orders: set[Order] = set()
        metrics.waiting.set_function(lambda: len(queue))
        metrics.working.set_function(lambda: queue.working)

    @property
    def may_fetch(self) -> Callable[[str], bool] | None:
        """Says of a URL whether it is fetched; None where nothing is."""
        return self._fetcher.allows if self._fetcher else None

    def submit(self, request: GenerationRequest, *, watcher: Watcher | None = None) -> Order:
        """Give a request its model, its seeds and its place, and begin; `watcher` is told of denoising steps.

        Raises NoModelError, QueueFullError, ShuttingDownError.
        """
        if self.stopping:
            raise ShuttingDownError
        offer = self.catalogue.find(request.model)
        if offer is None:
            raise NoModelError(request.model or "", offered=[each.pinned.name for each in self.catalogue.offers])
        settings = request.settings(offer.recipe.generate)
        first = secrets.randbelow(RANDOM_SEEDS) if request.seed is None else request.seed
        seeds = tuple((first + number) % (MAX_SEED + 1) for number in range(request.n))
        order = Order(request, offer, settings, seeds, self.queue.enter())
        order.work = asyncio.create_task(self._make(order, watcher=watcher))
        # Not in `_make`, because a task that is cancelled before its first step runs none of it.
        order.work.add_done_callback(lambda _: self._left(order))
        self._orders.add(order)
        return order

    def _left(self, order: Order) -> None:
        self.queue.leave(order.place)
        self._orders.discard(order)
        if order.work.cancelled():
            self.metrics.cancels.inc()

    async def _make(self, order: Order, *, watcher: Watcher | None) -> list[Drawn]:
        await order.place.turn
        self.metrics.queued.observe(time.monotonic() - order.accepted_at)
        try:
            return await self._attempt(order, watcher=watcher)
        except ReplicaLostError:
            self.metrics.lost.inc()
        try:
            return await self._attempt(order, watcher=watcher)  # the seeds are decided, so the images are the same
        except ReplicaLostError:
            raise NoReplicaError from None

    async def _attempt(self, order: Order, *, watcher: Watcher | None) -> list[Drawn]:
        request, facts = order.request, order.offer.pinned.facts
        began = time.monotonic()
        content = request.content
        if self._fetcher and not isinstance(content, str):
            content = await fetched(content, self._fetcher)
        wanted = Wanted(order.offer.pinned, content, order.seeds, order.settings)
        encoded = await self.backend.encode(wanted)
        self.metrics.stages.labels("encode").observe(time.monotonic() - began)
        rows = encoded if wanted.drawn else encoded * len(order.seeds)
        drawings = [
            Drawing(
                conditioning,
                seed,
                order.settings,
                prompt=request.words,
                facts=facts,
                output_format=request.output_format,
                partial_images=request.partial_images if request.stream else 0,
            )
            for conditioning, seed in zip(rows, order.seeds, strict=True)
        ]
        drawn = await _all([self.backend.draw(each, watcher=watcher) for each in drawings])
        for each in drawn:
            self.metrics.drawn(
                each, steps=order.settings.num_inference_steps, model=facts["model"], version=facts["version"]
            )
        return drawn

    async def drain(self, *, grace_s: float) -> None:
        """Accept nothing more, and wait for what was accepted until the time is over."""
        self.stopping = True
        deadline = time.monotonic() + grace_s
        while self._orders and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """End what is left; who waits for it is told that the service stops."""
        self.stopping = True
        left = [order.work for order in self._orders]
        for work in left:
            work.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _all(work: Sequence[Coroutine[Any, Any, Drawn]]) -> list[Drawn]:
    """All results. If one fails, or the caller gives up, the others are cancelled and have ended before it is said."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
