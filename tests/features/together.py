"""Work in other processes: side by side from one moment on, alone, or until it kills itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

# A server forks them: importing torch once a process would take longer than every test here.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["x2i_platform.precompute.shards", "x2i_platform.features.writer"])
TIMEOUT_S = 120


_barriers: list[Any] = []


def meet() -> None:
    """In work that races: go on when every process is here."""
    _barriers[0].wait(TIMEOUT_S)


def race(work: Callable[..., Any], *arguments: Any, count: int) -> list[Any]:
    """What `work(me, *arguments)` returns in each of `count` processes, which begin it at one moment."""
    start, results = CONTEXT.Barrier(count), CONTEXT.Queue()
    processes = [begin(_report, work, me, start, results, arguments) for me in range(count)]
    found = dict(results.get(timeout=TIMEOUT_S) for _ in processes)
    for process in processes:
        process.join(TIMEOUT_S)
        assert process.exitcode == 0
    return [found[me] for me in range(count)]


def begin(work: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A process that has begun `work(*arguments)`, in the environment of this moment: its server's may be older."""
    process = CONTEXT.Process(target=_work_in, args=(dict(os.environ), work, *arguments), daemon=True)
    process.start()
    return process


def run_until_killed(work: Callable[..., Any], *arguments: Any) -> None:
    """Run work that kills its own process, which must have happened."""
    process = begin(work, *arguments)
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL


def die(*_: Any, **__: Any) -> NoReturn:
    """End this process as `kill -9` does: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def then_die(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and the end of this process when it returns."""

    def last(*arguments: Any, **named: Any) -> NoReturn:
        function(*arguments, **named)
        die()

    return last


def _work_in(environment: dict[str, str], work: Callable[..., Any], *arguments: Any) -> None:
    os.environ.update(environment)
    work(*arguments)


def _report(work: Callable[..., Any], me: int, start: Any, results: Any, arguments: tuple[Any, ...]) -> None:
    _barriers.append(start)
    meet()
    results.put((me, work(me, *arguments)))
