"""The queue: who works, who waits, who is turned away."""

from __future__ import annotations

import asyncio

import pytest

from x2i_platform.serving.queue import Place, Queue, QueueFullError


async def test_places_are_bounded_and_move_up() -> None:
    queue = Queue(slots=1, limit=2)
    working, first, second = (queue.enter() for _ in range(3))
    assert [place.position for place in (working, first, second)] == [None, 0, 1]
    with pytest.raises(QueueFullError):
        queue.enter()
    queue.leave(working)
    queue.leave(working)
    assert (queue.working, len(queue)) == (1, 1)
    assert [place.position for place in (first, second)] == [None, 0]


async def test_who_gives_up_while_waiting_takes_no_slot() -> None:
    queue = Queue(slots=1, limit=5)
    order: list[str] = []

    async def job(name: str, place: Place) -> None:
        try:
            await place.turn
            order.append(name)
            await asyncio.sleep(0.01)
        finally:
            queue.leave(place)

    tasks = [asyncio.create_task(job(name, queue.enter())) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "d"]
    assert (queue.working, len(queue)) == (0, 0)


async def test_a_slot_that_falls_to_one_that_has_just_given_up_goes_on() -> None:
    queue = Queue(slots=1, limit=5)
    working, gone, last = (queue.enter() for _ in range(3))
    gone.turn.cancel()  # a task's cancelling does this at once; the task itself leaves some turns of the loop later
    queue.leave(working)
    queue.leave(gone)
    assert last.turn.done()
    queue.leave(last)
    assert (queue.working, len(queue)) == (0, 0)
