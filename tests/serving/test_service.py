"""What a request goes through: refusals, the queue, a replica that dies, giving up, stopping."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from x2i_platform.errors import InputError
from x2i_platform.serving.api import GenerationRequest
from x2i_platform.serving.catalogue import Catalogue, Offer
from x2i_platform.serving.metrics import Metrics
from x2i_platform.serving.pinned import Pinned, pin_model
from x2i_platform.serving.queue import Queue, QueueFullError
from x2i_platform.serving.service import NoModelError, NoReplicaError, ReplicaLostError, Service, ShuttingDownError
from x2i_platform.serving.travel import Drawing, Drawn, Wanted, Watcher


class Replicas:
    """A backend that draws nothing: it waits until it may, dies as often as it is told, and counts."""

    def __init__(self, *, deaths: int = 0) -> None:
        self.deaths, self.go = deaths, asyncio.Event()
        self.drawings: list[Drawing] = []
        self.at_work = 0

    async def load(self, model: Pinned) -> None:
        raise AssertionError

    async def encode(self, wanted: Wanted) -> list[Any]:
        if wanted.content == "unreadable":
            raise InputError("it can't be read")
        return ["conditioning"]

    async def draw(self, drawing: Drawing, *, watcher: Watcher | None) -> Drawn:
        self.drawings.append(drawing)
        self.at_work += 1
        try:
            await self.go.wait()
        finally:
            self.at_work -= 1
        if self.deaths:
            self.deaths -= 1
            raise ReplicaLostError
        return Drawn(b"image", drawing.seed, None, 1, {"denoise": 1.0})

    async def ready(self) -> str | None:
        return None


@pytest.fixture
def offer(model_folder: Path) -> Offer:
    return Offer(*pin_model(str(model_folder), tracking_uri=""))


def service_of(offer: Offer, backend: Replicas, *, slots: int = 1, limit: int = 2) -> Service:
    return Service(Catalogue([offer]), backend, queue=Queue(slots=slots, limit=limit), metrics=Metrics())


def asked(prompt: str = "a", **fields: Any) -> GenerationRequest:
    return GenerationRequest.model_validate({"prompt": prompt, **fields})


async def test_a_request_is_one_drawing_an_image_with_consecutive_seeds(offer: Offer) -> None:
    backend = Replicas()
    backend.go.set()
    order = service_of(offer, backend).submit(asked(n=3, seed=2**63 - 2))
    assert [each.seed for each in await order.work] == [2**63 - 2, 2**63 - 1, 0]
    assert {each.facts["version"] for each in backend.drawings} == {offer.pinned.version}
    random = service_of(offer, backend).submit(asked())
    assert 0 <= random.seeds[0] < 2**32
    await random.work


async def test_refusals_come_before_any_work(offer: Offer) -> None:
    backend = Replicas()
    service = service_of(offer, backend)
    with pytest.raises(NoModelError, match="no model 'dall-e' here; this service has 'untrained'"):
        service.submit(asked(model="dall-e"))
    orders = [service.submit(asked()) for _ in range(3)]
    await asyncio.sleep(0)
    assert [order.place.position for order in orders] == [None, 0, 1]
    with pytest.raises(QueueFullError):
        service.submit(asked())
    backend.go.set()
    await asyncio.gather(*(order.work for order in orders))
    with pytest.raises(InputError, match="can't be read"):
        await service.submit(asked("unreadable")).work
    assert (service.queue.working, len(service.queue)) == (0, 0)


@pytest.mark.parametrize(("deaths", "succeeds"), [(1, True), (2, False)])
async def test_a_replica_that_dies_costs_a_second_attempt(offer: Offer, deaths: int, succeeds: bool) -> None:
    backend = Replicas(deaths=deaths)
    backend.go.set()
    order = service_of(offer, backend).submit(asked(seed=5))
    if succeeds:
        assert [each.seed for each in await order.work] == [5]
    else:
        with pytest.raises(NoReplicaError):
            await order.work
    assert [each.seed for each in backend.drawings] == [5, 5]


async def test_giving_up_at_any_moment_leaves_nothing(offer: Offer) -> None:
    backend = Replicas()
    service = service_of(offer, backend, limit=9)
    orders = [service.submit(asked(n=3)) for _ in range(3)]
    orders[0].work.cancel()  # before its first step
    await asyncio.sleep(0.01)
    assert backend.at_work == 3
    orders[1].work.cancel()  # at work
    orders[2].work.cancel()  # waiting, or just begun
    await asyncio.gather(*(order.work for order in orders), return_exceptions=True)
    await asyncio.sleep(0)
    assert (backend.at_work, service.queue.working, len(service.queue)) == (0, 0, 0)
    assert service.metrics.cancels._value.get() == 3


async def test_stopping_finishes_what_it_can_and_ends_the_rest(offer: Offer) -> None:
    backend = Replicas()
    service = service_of(offer, backend)
    orders = [service.submit(asked()) for _ in range(2)]
    draining = asyncio.create_task(service.drain(grace_s=0.2))
    await asyncio.sleep(0.01)
    with pytest.raises(ShuttingDownError):
        service.submit(asked())
    await draining
    assert not any(order.work.done() for order in orders), "the time was too short"
    await service.close()
    assert all(order.work.cancelled() for order in orders)
    assert backend.at_work == 0

    backend = Replicas()
    service = service_of(offer, backend)
    order = service.submit(asked())
    backend.go.set()
    await service.drain(grace_s=20)
    assert order.work.done() and not order.work.cancelled()
