"""How long work says how far it is. The command line draws it as a bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

Metrics = Mapping[str, float]


class Progress(Protocol):
    """Called with what is done and what there is to do, both in one unit, and with the metrics of now, if any."""

    def __call__(self, done: int, total: int, metrics: Metrics | None = None, /) -> None:
        """Show it."""


ProgressBar = Callable[..., AbstractContextManager[Progress]]
"""Makes a bar for the length of a `with`: `progress_bar(title, unit="images")`."""
