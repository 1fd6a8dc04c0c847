"""How often and how many at once: limits per key, or without keys per client address.

| request | counts |
|---|---|
| POST of what makes something: `/v1/images/…`, `/v1/jobs`, `/v1/files`, `/v1/batches` | yes |
| POST that ends something: `/v1/batches/ID/cancel` | no |
| GET, HEAD, DELETE, OPTIONS | no: whoever waits may look, and whoever gives up may say so |

Invariants: a refused request takes nothing from the allowance; the counts are of this process, and each client is
remembered for a minute.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections import Counter
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.serving.http.answers import client_of, is_any_of, path_of, refuse, whole_seconds
from x2i_platform.serving.http.errors import ApiError

COUNTED = re.compile(r"/v1/.*")
FREE = (re.compile(r"/v1/batches/[^/]+/cancel"),)
MINUTE_S = 60
BUSY_S = 1
"""Seconds after which one of the running requests may be done."""
IPV6_NETWORK_BITS = 64
"""One household or machine has all addresses of such a network."""


class Allowance:
    """What each client has left of its minute."""

    def __init__(self, requests_per_minute: int) -> None:
        self.limit = RateLimitItemPerMinute(requests_per_minute)
        self.limiter = MovingWindowRateLimiter(MemoryStorage())

    async def take(self, client: str) -> bool:
        """Take one request, if there is one left."""
        return await self.limiter.hit(self.limit, client)

    async def headers(self, client: str) -> dict[str, str]:
        """How much is left, in headers that OpenAI's clients know."""
        window = await self.limiter.get_window_stats(self.limit, client)
        seconds = min(MINUTE_S, whole_seconds(window.reset_time - time.time()))
        return {
            "x-ratelimit-limit-requests": str(self.limit.amount),
            "x-ratelimit-remaining-requests": str(max(0, window.remaining)),
            "x-ratelimit-reset-requests": f"{seconds}s",
        }


def with_rates(app: ASGIApp, *, requests_per_minute: int, concurrent: int) -> ASGIApp:
    """The application, for so many requests of each client."""
    allowance, running = Allowance(requests_per_minute), Counter[str]()

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if not is_counted(scope):
            await app(scope, receive, send)
            return
        client = _client(scope)
        if running[client] >= concurrent:
            message = f"{concurrent} requests are running for this client; at most so many may at once"
            await refuse(_too_many(message, retry_after_s=BUSY_S, headers={}), scope, receive, send)
            return
        running[client] += 1
        try:
            taken = await allowance.take(client)
            headers = await allowance.headers(client)
            if taken:
                await app(scope, receive, _adding(headers, send))
            else:
                seconds = int(headers["x-ratelimit-reset-requests"].removesuffix("s"))
                message = f"at most {requests_per_minute} requests a minute are taken; try again in {seconds} s"
                await refuse(_too_many(message, retry_after_s=seconds, headers=headers), scope, receive, send)
        finally:
            running[client] -= 1
            if not running[client]:
                del running[client]

    return limited


def is_counted(scope: Scope) -> bool:
    """Whether a request counts, by the table above."""
    path = path_of(scope)
    return scope["method"] == "POST" and bool(COUNTED.fullmatch(path)) and not is_any_of(path, FREE)


def _client(scope: Scope) -> str:
    """Whose allowance it is: that of a key, or of an address."""
    if key := scope["state"].get("key"):
        return f"key {key}"
    try:
        address = ipaddress.ip_address(client_of(scope))
    except ValueError:
        return "address unknown"
    if address.version == 6:
        return f"network {ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False)}"
    return f"address {address}"


def _too_many(message: str, *, retry_after_s: int, headers: Mapping[str, str]) -> ApiError:
    error = ApiError(429, message, kind="requests", code="rate_limit_exceeded", retry_after_s=retry_after_s)
    error.headers = {**error.headers, **headers}
    return error


def _adding(headers: Mapping[str, str], send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sent
