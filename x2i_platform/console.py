"""What the command line shows: progress on stderr, results on stdout. Used by the command line alone."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import progress as bars
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Column, Table

from x2i_platform.progress import Metrics, Progress

err = Console(stderr=True, highlight=False, emoji=False)
out = Console(highlight=False, emoji=False, soft_wrap=True)

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # at ERROR it prints the traceback of what is raised anyway
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's C++ side warns on stderr of what it retries by itself
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Environment variables that libraries read on import, so they are set before. A user's own setting wins."""


def configure(*, verbose: bool) -> None:
    """Log to stderr, warnings alone unless `verbose`; libraries that talk too much are told not to."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO if verbose else logging.WARNING, format="%(message)s")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def fail(message: str) -> None:
    """One line on stderr for a user's mistake."""
    err.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}", soft_wrap=True)


def note(message: str) -> None:
    """One line on stderr; nothing for an empty message."""
    if message:
        err.print(escape(" ".join(message.split())), soft_wrap=True)


@contextmanager
def status(message: str) -> Iterator[None]:
    """Say on stderr what is going on, while it does."""
    with err.status(escape(message)):
        yield


def typed_lines(prompt: str) -> Iterator[str]:
    """Yield the lines of stdin that aren't blank, each asked for with `prompt` in a terminal."""
    while True:
        if sys.stdin.isatty():
            err.print(escape(prompt), end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


@contextmanager
def progress_bar(title: str, *, unit: str) -> Iterator[Progress]:
    """A bar with rate and time left; yields the function that moves it."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TextColumn("{task.fields[extra]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=err, transient=not err.is_terminal) as bar:
        task = bar.add_task(title, total=None, rate="", extra="")

        def show_progress(done: int, total: int, metrics: Metrics | None = None, /) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = f"{done / elapsed:.1f} {unit}/s" if elapsed else ""
            extra = "  ".join(f"{name} {value:.4g}" for name, value in (metrics or {}).items())
            bar.update(task, completed=done, total=total, rate=rate, extra=extra)

        yield show_progress


def show(result: Mapping[str, Any], *, title: str, as_json: bool) -> None:
    """A result as a two-column table, or as one line of JSON."""
    if as_json:
        _print_json(result)
        return
    table = Table(
        Column(overflow="fold"), Column(overflow="fold"), title=title, show_header=False, title_justify="left"
    )
    for name, value in _flat(result):
        table.add_row(escape(name.replace("_", " ")), escape(value))
    out.print(table)


def show_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows of equal keys as a table, or as one line of JSON."""
    if as_json:
        _print_json(rows)
        return
    if not rows:
        return
    # The first column names the row and may be copied, so it isn't wrapped; others may wrap, but nothing is cut.
    columns = [Column(key.replace("_", " "), overflow="fold", no_wrap=i == 0) for i, key in enumerate(rows[0])]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    out.print(table)


def show_markdown(text: str) -> None:
    """Markdown as a terminal can show it. A front matter, which is for machines, is left out."""
    out.print(Markdown(re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.DOTALL)), soft_wrap=False)


def _print_json(value: Any) -> None:
    out.out(json.dumps(value, ensure_ascii=False), highlight=False)


def _flat(result: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from _flat(value, prefix=f"{prefix}{name} ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            for part in value:
                label, *numbers = part.values()
                pairs = zip(list(part)[1:], numbers, strict=True)
                yield f"{prefix}{name} {label}", ", ".join(f"{key} {_text(number)}" for key, number in pairs)
        elif value is not None:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if abs(value) < 10**15 else f"{value:.3e}"
