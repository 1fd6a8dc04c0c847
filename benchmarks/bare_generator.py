"""A bare loop over `Generator` in one process, beside which the throughput of a service is looked at."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from service_load import captions

from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.registry.models import resolve

NICENESS = 15
"""What Ray gives its workers: other work on the machine must not slow down one side alone."""


@contextmanager
def bare_process() -> Iterator[ProcessPoolExecutor]:
    """A process that lives as long as the block, and is idle where nothing is asked of it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=os.nice, initargs=(NICENESS,)) as process:
        yield process


def bare_rate(model: str, *, side: int, batch: int, threads: int, seconds: float) -> float:
    """Images a second of `generate` on batches of different prompts, in this process."""
    torch.set_num_threads(threads)
    generator, prompts, made = _loaded(model), captions(), 0
    settings = generator.recipe.generate.model_copy(update={"width": side, "height": side})
    generator.generate([ImageRequest(next(prompts), 0, settings)])
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        made += len(generator.generate([ImageRequest(next(prompts), seed, settings) for seed in range(batch)]))
    return made / (time.monotonic() - began)


@cache
def _loaded(model: str) -> Generator:
    return Generator.load(resolve(model, tracking_uri=""))
