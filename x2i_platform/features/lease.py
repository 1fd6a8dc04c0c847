"""A lock on an object store, which knows no locks: it is held by writing to it again and again.

Whoever creates the next numbered file holds it; of several that try, the store lets one. A holder that has stopped
writing is taken for dead, so a killed process keeps nobody waiting for ever. Files of earlier holders, of a few bytes,
stay: a waiting process may be about to read one. Invariant: no clock is compared with
another machine's; what counts is how long a file stood still before the eyes of the one who waits.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from x2i_platform.errors import StoreError
from x2i_platform.features.files import Files

BEAT_S = 10.0
DEAD_AFTER_S = 60.0
RELEASED = b"released"


@contextmanager
def lease(files: Files, name: str, *, on_wait: Callable[[], None], on_loss: Callable[[], None]) -> Iterator[None]:
    """Hold `name` for the length of the block.

    `on_wait` is called once if somebody else holds it, `on_loss`, from a thread, if somebody has taken it for dead's:
    after a sleep of the machine, say. Raises StoreError where the store can't be read or written.
    """
    mine = _acquire(files, name, on_wait=on_wait)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(files, name, mine, stop, on_loss), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        with suppress(StoreError):  # what can't be released now is dead in a minute
            if _latest(files, name) == mine:
                files.publish(mine, RELEASED)


def _acquire(files: Files, name: str, *, on_wait: Callable[[], None]) -> str:
    seen, since, waited = b"", time.monotonic(), False
    while True:
        held = _latest(files, name)
        content = files.read(held) if held else RELEASED
        if content != seen:
            seen, since = content, time.monotonic()
        if content == RELEASED or time.monotonic() - since > DEAD_AFTER_S:
            number = int(held.rpartition("/")[2]) + 1 if held else 1
            mine = f"{name}/{number:09d}"
            if files.publish_new(mine, _token()):
                return mine
        elif not waited:
            waited = True
            on_wait()
        time.sleep(BEAT_S / 2)


def _beat(files: Files, name: str, mine: str, stop: threading.Event, on_loss: Callable[[], None]) -> None:
    while not stop.wait(BEAT_S):
        try:
            if _latest(files, name) != mine:
                on_loss()
                return
            files.publish(mine, _token())
        except StoreError:
            continue  # the store is away for a while; whether the lease outlived that shows when it is back


def _latest(files: Files, name: str) -> str | None:
    return next((found for found in reversed(files.names(name)) if found.rpartition("/")[2].isdecimal()), None)


def _token() -> bytes:
    return uuid.uuid4().hex.encode()
