"""The same training, started twice, runs once: the second process waits for the first and returns its result."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from x2i_platform.errors import StoreError, TrainingError, raising
from x2i_platform.features.files import OUTSIDE, Files
from x2i_platform.features.lease import lease
from x2i_platform.files import locked

log = logging.getLogger(__name__)


@contextmanager
def alone(name: str, *, runs: str, database: Path | None) -> Iterator[None]:
    """Hold a training for the length of the block: its folder, and its run in a database that is a file.

    On local disks these are the operating system's locks, which end with their process. Raises StoreError if a folder
    can't be locked.
    """
    with ExitStack() as held:
        if "://" in runs:
            held.enter_context(_leased(Files(runs), name))
        # Sorted, so that two processes that lock the same folders can't wait for each other.
        folders = {Path(runs).resolve()} if "://" not in runs else set()
        for folder in sorted(folders | ({database.parent.resolve()} if database else set())):
            path = folder / f".{name}.lock"
            with raising(StoreError, f"can't lock '{path}'", OUTSIDE):
                held.enter_context(locked(path, on_wait=partial(_say_waiting, str(folder))))
        yield


@contextmanager
def _leased(files: Files, name: str) -> Iterator[None]:
    lost = threading.Event()

    def stop() -> None:
        lost.set()
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with lease(files, f".{name}.lock", on_wait=lambda: _say_waiting(files.url), on_loss=stop):
            yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise TrainingError(
            f"training '{name}' stood still for so long that another process has taken it over; it goes on there"
        ) from None


def _say_waiting(place: str) -> None:
    log.warning("the same training runs already in %s; waiting until it ends", place)
