"""What a service does with a request: its place, its seeds, a second attempt, and nothing left behind."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.serving.by_hand import asked, by_hand, toy, until
from x2i_platform.config import Recipe
from x2i_platform.errors import InputError
from x2i_platform.serving.api import MAX_SEED
from x2i_platform.serving.queue import QueueFullError
from x2i_platform.serving.service import NoModelError, NoReplicaError, ReplicaLostError, ShuttingDownError


async def test_images_have_successive_seeds_and_one_conditioning(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    backend.go.set()
    drawn = await service.submit(asked(n=3, seed=MAX_SEED)).work
    assert [each.seed for each in drawn] == [MAX_SEED, 0, 1], "64 bits are all that a generator takes"
    assert [each.image for each in drawn] == [b"image %d" % each.seed for each in drawn]
    assert {each.conditioning for each in backend.drawings} == {f"conditioning {MAX_SEED}"}
    first, second = (service.submit(asked()).seeds for _ in range(2))
    assert first != second


async def test_a_drawn_answer_is_each_seeds_own(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    backend.go.set()
    await service.submit(asked(n=2, seed=5, states="answer", answer={"temperature": 0.7})).work
    assert [each.conditioning for each in backend.drawings] == ["conditioning 5", "conditioning 6"]
    await service.submit(asked(n=2, seed=5, states="answer")).work
    assert [each.conditioning for each in backend.drawings[2:]] == ["conditioning 5"] * 2, "a greedy one is shared"


async def test_partial_images_are_drawn_for_streams_alone(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    backend.go.set()
    for stream in (True, False):
        await service.submit(asked(stream=stream, partial_images=2)).work
    assert [each.partial_images for each in backend.drawings] == [2, 0]


async def test_what_is_refused_takes_no_place(mini_recipe: Recipe) -> None:
    service, _ = by_hand(mini_recipe, slots=1, limit=1)
    with pytest.raises(NoModelError, match=r"no model 'dall-e-3' here; this service has 'models:/toy@champion'"):
        service.submit(asked(model="dall-e-3"))
    working, waiting = service.submit(asked()), service.submit(asked(model="toy"))
    assert (working.place.position, waiting.place.position) == (None, 0)
    with pytest.raises(QueueFullError):
        service.submit(asked())
    await service.close()
    assert (service.queue.working, len(service.queue)) == (0, 0)
    with pytest.raises(ShuttingDownError):
        service.submit(asked())


async def test_places_move_up_as_others_finish_or_give_up(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe, slots=1)
    orders = [service.submit(asked(seed=seed)) for seed in range(4)]
    assert [order.place.position for order in orders] == [None, 0, 1, 2]
    await until(lambda: backend.at_work)
    orders[1].work.cancel()
    await until(orders[1].work.done)
    assert [order.place.position for order in orders] == [None, None, 0, 1]
    assert backend.at_work == 1
    backend.go.set()
    assert [drawn.seed for order in (orders[0], *orders[2:]) for drawn in await order.work] == [0, 2, 3]
    assert service.metrics.cancels._value.get() == 1


async def test_a_request_is_made_by_the_version_that_was_offered_when_it_came(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe, slots=1)
    old = [service.submit(asked()) for _ in range(2)]
    service.catalogue.switch(toy(mini_recipe, version="models:/toy/2"))
    new = service.submit(asked())
    backend.go.set()
    await asyncio.gather(*(order.work for order in (*old, new)))
    assert [each.model.source for each in backend.wanted] == ["models:/toy/1", "models:/toy/1", "models:/toy/2"]
    assert [each.facts["version"] for each in backend.drawings] == [each.model.source for each in backend.wanted]


@pytest.mark.parametrize("stage", ["encode_failures", "draw_failures"])
async def test_a_lost_replica_costs_a_second_attempt_and_two_are_none(mini_recipe: Recipe, stage: str) -> None:
    service, backend = by_hand(mini_recipe)
    backend.go.set()
    failures = getattr(backend, stage)
    failures.append(ReplicaLostError())
    order = service.submit(asked())
    assert [each.seed for each in await order.work] == list(order.seeds)
    assert {each.seeds for each in backend.wanted} == {order.seeds}, "the second attempt makes the same image"
    assert service.metrics.lost._value.get() == 1
    failures.extend([ReplicaLostError(), ReplicaLostError()])
    with pytest.raises(NoReplicaError):
        await service.submit(asked()).work
    assert not failures
    assert service.queue.working == 0


async def test_an_image_that_fails_ends_its_siblings_before_it_is_told(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    backend.draw_failures.append(InputError("not this"))
    with pytest.raises(InputError, match="not this"):
        await service.submit(asked(n=4)).work
    assert (len(backend.drawings), backend.at_work) == (4, 0)


async def test_who_gives_up_before_the_first_step_gives_his_slot_back(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe, slots=1)
    service.submit(asked()).work.cancel()
    backend.go.set()
    assert await service.submit(asked()).work
    assert len(backend.wanted) == 1
    assert (service.queue.working, len(service.queue)) == (0, 0)


async def test_who_gives_up_as_his_turn_comes_holds_up_nobody(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe, slots=1)
    first, second, third = (service.submit(asked()) for _ in range(3))
    await until(lambda: backend.at_work)
    first.work.cancel()
    second.work.cancel()
    backend.go.set()
    assert await third.work
    began = time.monotonic()
    await service.drain(grace_s=5)
    assert time.monotonic() - began < 1, "none of them is left"
    assert (service.queue.working, len(service.queue)) == (0, 0)


async def test_a_service_that_stops_finishes_what_it_can_and_ends_the_rest(mini_recipe: Recipe) -> None:
    service, backend = by_hand(mini_recipe)
    quick = service.submit(asked())
    draining = asyncio.create_task(service.drain(grace_s=5))
    await until(lambda: backend.at_work)
    with pytest.raises(ShuttingDownError):
        service.submit(asked())
    backend.go.set()
    await draining
    assert quick.work.done()

    service, backend = by_hand(mini_recipe, slots=1)
    orders = [service.submit(asked()) for _ in range(2)]
    await until(lambda: backend.at_work)
    await service.drain(grace_s=0.1)
    assert not any(order.work.done() for order in orders), "its time is over"
    await service.close()
    assert all(order.work.cancelled() for order in orders)
    assert (backend.at_work, service.queue.working) == (0, 0)
