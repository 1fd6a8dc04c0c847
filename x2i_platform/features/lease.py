"""A lock on an object store, which has no locks: the holder keeps writing to a file.

Whoever creates the next numbered file holds the lock; of several that try, the store lets one succeed. A holder that
has stopped writing counts as dead, so a killed process blocks nobody for ever. Files of earlier holders stay (a few
bytes each), because a waiting process may be about to read one.

Invariant: clocks of two machines are never compared; what counts is how long the waiting process saw a file unchanged.
"""

from __future__ import annotations

import logging
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
log = logging.getLogger(__name__)


@contextmanager
def lease(files: Files, name: str, *, on_wait: Callable[[], None], on_loss: Callable[[], None]) -> Iterator[None]:
    """Hold `name` for the length of the block.

    `on_wait` is called once if somebody else holds it. `on_loss` is called from a thread if somebody else has taken it
    over, for example after this machine slept. Raises StoreError if the store can't be read or written.
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
        except Exception:  # a heart that stops for any reason would let a second process in
            log.warning("the lock '%s' could not be renewed; trying again", name, exc_info=True)


def _latest(files: Files, name: str) -> str | None:
    return next((found for found in reversed(files.names(name)) if found.rpartition("/")[2].isdecimal()), None)


def _token() -> bytes:
    return uuid.uuid4().hex.encode()
