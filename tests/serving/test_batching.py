"""Dynamic batches: what goes together, and that nobody pays for another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from x2i_platform.serving.batching import Batcher, NobodyWaitsError, Ticket


class Work:
    """Doubles numbers of one parity, slowly enough that others gather; -1 fails."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, tickets: Sequence[Ticket[int, int]]) -> list[int]:
        self.batches.append([ticket.item for ticket in tickets])
        assert self.go.wait(10)
        if all(ticket.cancelled for ticket in tickets):
            raise NobodyWaitsError
        if -1 in self.batches[-1]:
            raise ValueError("-1 can't be doubled")
        return [2 * ticket.item for ticket in tickets]


def parity(item: int) -> int:
    return item % 2


async def begun(batcher: Batcher[int, int], items: Sequence[int], work: Work) -> list[asyncio.Task[int]]:
    """Tasks of items of which the first is at work and the others wait."""
    tasks = [asyncio.create_task(batcher.run(item)) for item in items[:1]]
    while not work.batches:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher.run(item)) for item in items[1:]]
    await asyncio.sleep(0.01)
    return tasks


async def test_what_waits_is_grouped_by_key_and_size_and_the_oldest_goes_first() -> None:
    work = Work()
    tasks = await begun(Batcher(work, key=parity, max_size=3), [0, 1, 2, 3, 4, 5, 7, 9], work)
    work.go.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8, 10, 14, 18]
    assert work.batches == [[0], [1, 3, 5], [2, 4], [7, 9]]


async def test_a_failing_item_fails_alone() -> None:
    work = Work()
    tasks = await begun(Batcher(work, key=parity, max_size=8), [1, 3, -1, 5], work)
    work.go.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, others[0], others[2]) == (2, 6, 10)
    assert str(others[1]) == "-1 can't be doubled"
    assert work.batches == [[1], [3, -1, 5], [3], [-1], [5]]


async def test_a_cancelled_item_is_left_out_or_dropped_and_the_others_go_on() -> None:
    work = Work()
    batcher = Batcher(work, key=parity, max_size=8)
    tasks = await begun(batcher, [1, 3, 5], work)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.sleep(0.01)
    work.go.set()
    assert await tasks[2] == 10
    assert all(task.cancelled() for task in tasks[:2])
    assert work.batches == [[1], [5]]
    assert await batcher.run(2) == 4, "and it works again after a rest"


@pytest.mark.parametrize("count", [200])
async def test_many_cancels_leave_nothing_behind(count: int) -> None:
    work = Work()
    work.go.set()
    batcher = Batcher(work, key=parity, max_size=8)
    tasks = [asyncio.create_task(batcher.run(item)) for item in range(count)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await asyncio.gather(*(batcher.run(item) for item in range(50))) == [2 * item for item in range(50)]
