"""Dynamic batches: what waits is grouped, and worked on in a thread, one batch after another. Free of Ray.

Nobody waits for a batch to fill: while one is worked on, the next gathers. Invariants: an item that fails or is
cancelled never fails another of its batch; the items of a batch have one key; the one that waits longest is in the next
batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class NobodyWaitsError(Exception):
    """Work ends itself with this once all of its batch were cancelled."""


@dataclass(eq=False)
class Ticket(Generic[Item, Result]):
    """An item in a batch."""

    item: Item
    future: asyncio.Future[Result]

    @property
    def cancelled(self) -> bool:
        """Whether the caller has given up. May be asked from the working thread."""
        return self.future.cancelled()


class Batcher(Generic[Item, Result]):
    """Runs `work` on batches of at most `max_size` items with equal `key`."""

    def __init__(
        self,
        work: Callable[[Sequence[Ticket[Item, Result]]], Sequence[Result]],
        *,
        key: Callable[[Item], Hashable],
        max_size: int,
    ) -> None:
        self._work, self._key, self._max_size = work, key, max_size
        self._waiting: deque[Ticket[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._draining: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Result:
        """The result of an item. Raises what `work` raises for it alone."""
        ticket: Ticket[Item, Result] = Ticket(item, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await ticket.future

    async def _drain(self) -> None:
        while batch := self._next():
            await self._perform(batch)

    def _next(self) -> list[Ticket[Item, Result]]:
        """Take the longest waiting item and those that go with it."""
        waiting = [ticket for ticket in self._waiting if not ticket.cancelled]
        first = self._key(waiting[0].item) if waiting else None
        batch = [ticket for ticket in waiting if self._key(ticket.item) == first][: self._max_size]
        chosen = set(map(id, batch))
        self._waiting = deque(ticket for ticket in waiting if id(ticket) not in chosen)
        return batch

    async def _perform(self, batch: Sequence[Ticket[Item, Result]]) -> None:
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, batch)
        except NobodyWaitsError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            await self._failed(batch, error)
            return
        for ticket, result in zip(batch, results, strict=True):
            if not ticket.future.done():
                ticket.future.set_result(result)

    async def _failed(self, batch: Sequence[Ticket[Item, Result]], error: Exception) -> None:
        """Tell a lone item, or try each of a batch alone, so that the others don't fail with the one at fault."""
        if len(batch) > 1:
            for ticket in batch:
                if not ticket.cancelled:
                    await self._perform([ticket])
        elif not batch[0].future.done():
            batch[0].future.set_exception(error)
