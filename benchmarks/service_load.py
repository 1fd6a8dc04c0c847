"""Clients of a service: many at once, each with one request at a time and a connection of its own.

By aiohttp, of Python's clients one that takes little of the cores that it shares with the service. Invariants: whatever
happens is bounded in time; no answer is left out of the figures.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from PIL import Image

from x2i_platform.mini import captions_path

ROUTE = "/v1/images/generations"
NO_ANSWER = 0
"""Status of a request whose connection broke, or that was not answered in time."""
TIMEOUT_S = 120.0
RETRIED = (429, 503)
MAX_WAIT_S = 10.0
REFUSED_WAIT_S = 1.0
"""Seconds that a client waits after a refusal before it asks for something else."""
OK = 200
Body = dict[str, Any]
Beside = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """What a client got for a request, after its retries."""

    body: Body
    status: int
    tries: int
    asked_at: float
    """Of `time.monotonic`, as `answered_at`."""
    answered_at: float
    content: Any = None
    """The JSON of a success."""

    @property
    def seconds(self) -> float:
        """From the first try to the last answer."""
        return self.answered_at - self.asked_at

    @property
    def files(self) -> list[bytes]:
        """The images."""
        return [base64.b64decode(entry["b64_json"]) for entry in self.content["data"]] if self.content else []

    @property
    def told(self) -> list[dict[str, Any]]:
        """What each PNG says of its making, in its chunk `x2i`."""
        return [json.loads(Image.open(io.BytesIO(file)).info["x2i"]) for file in self.files]


@dataclass(frozen=True)
class Load:
    """All answers of some load."""

    answers: Sequence[Answer]
    began: float
    asked_s: float
    """Seconds for which the clients asked; the last answers came later."""

    @property
    def statuses(self) -> Counter[int]:
        """How many answers of each status."""
        return Counter(answer.status for answer in self.answers)

    @property
    def succeeded(self) -> float:
        """Share of the requests that were answered 200."""
        return self.statuses[200] / max(1, len(self.answers))

    def latency_s(self, percent: int) -> float:
        """Seconds within which so many percent of the successes came."""
        seconds = [answer.seconds for answer in self.answers if answer.status == 200]
        return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] if len(seconds) > 1 else 0.0

    def images_per_second(self, *, after_s: float = 0.0) -> float:
        """Images a second while all clients asked, without the first `after_s` seconds."""
        start, end = self.began + after_s, self.began + self.asked_s
        images = [
            answer.body.get("n", 1)
            for answer in self.answers
            if answer.status == 200 and start < answer.answered_at <= end
        ]
        return float(sum(images) / (end - start))


def captions() -> Iterator[str]:
    """Those that the package ships, each different from all before it: an encoder keeps what it has read."""
    lines = captions_path().read_text(encoding="utf-8").splitlines()
    for number in itertools.count():
        yield from (line if number == 0 else f"{line} {number}" for line in lines)


def bodies(*, start: int = 0, **settings: Any) -> Iterator[Body]:
    """Endless requests of different prompts and seeds; those from another `start` differ from these."""
    numbered = itertools.islice(enumerate(captions()), start, None)
    return ({"prompt": prompt, "seed": seed, **settings} for seed, prompt in numbered)


async def ask(client: aiohttp.ClientSession, body: Body, *, retries: int = 0) -> Answer:
    """Ask for an image; a refusal or a broken connection is tried again, after the time that the answer names."""
    asked_at, tries = time.monotonic(), 0
    while True:
        tries += 1
        status, content, wait_s = await _try(client, body)
        again = status in (*RETRIED, NO_ANSWER) and tries <= retries
        if not again:
            return Answer(body, status, tries, asked_at, time.monotonic(), content)
        await asyncio.sleep(min(wait_s, MAX_WAIT_S))


async def _try(client: aiohttp.ClientSession, body: Body) -> tuple[int, Any, float]:
    try:
        async with client.post(ROUTE, json=body) as response:
            content = await response.json() if response.status == OK else None
            return response.status, content, float(response.headers.get("Retry-After", 1.0))
    except (aiohttp.ClientError, TimeoutError):
        return NO_ANSWER, None, 1.0


async def load(
    url: str, wanted: Iterator[Body], *, clients: int, seconds: float, retries: int = 0, beside: Beside | None = None
) -> Load:
    """Have clients ask again and again for some seconds, and wait for what was asked. `beside` runs meanwhile."""
    began = time.monotonic()
    answers: list[Answer] = []

    async def client() -> None:
        async with connected(url) as http:
            while time.monotonic() < began + seconds:
                answers.append(answer := await ask(http, next(wanted), retries=retries))
                if answer.status != OK:
                    await asyncio.sleep(REFUSED_WAIT_S)

    await asyncio.gather(*(client() for _ in range(clients)), *([beside()] if beside else []))
    return Load(answers, began, seconds)


async def asked_for(url: str, wanted: Iterator[Body], *, count: int, clients: int) -> Load:
    """Have clients ask for a number of images."""
    began, left = time.monotonic(), itertools.islice(wanted, count)
    answers: list[Answer] = []

    async def client() -> None:
        async with connected(url) as http:
            for body in left:
                answers.append(await ask(http, body))

    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(answers, began, time.monotonic() - began)


def connected(url: str) -> aiohttp.ClientSession:
    """A client of a service, with a connection of its own."""
    return aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(TIMEOUT_S), connector=aiohttp.TCPConnector(limit=2))
