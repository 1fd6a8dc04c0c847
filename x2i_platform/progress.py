"""How long work reports its progress. The command line draws it as a bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

Metrics = Mapping[str, float]


class Progress(Protocol):
    """Called with the amount done and the total, both in one unit, and with current metrics, if any."""

    def __call__(self, done: int, total: int, metrics: Metrics | None = None, /) -> None:
        """Show it."""


ProgressBar = Callable[..., AbstractContextManager[Progress]]
"""Makes a bar for the length of a `with`: `progress_bar(title, unit="images")`."""
