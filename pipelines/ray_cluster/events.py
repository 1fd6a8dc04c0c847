"""What the workers of a training tell the driver while it waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty
from typing import Any

from ray.util.queue import Queue

from x2i_platform.progress import Progress

POLL_S = 0.5


def follow(events: Queue[Any], *, steps: int, on_progress: Progress) -> Callable[[], None]:
    """Pass the workers' events on from a thread, as `fit` blocks; returns what ends it."""
    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            try:
                step, metrics = events.get(timeout=POLL_S)
            except Empty:
                continue
            on_progress(step, steps, metrics)

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join(timeout=5)

    return end
