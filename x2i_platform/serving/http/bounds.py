"""How large a request may be, and how long it and its answer may take.

Invariants: a body is counted while it streams and never kept here; nothing is unpacked; what is too large or too slow
is refused before the application has seen all of it, and then the application's work is cancelled; an answer that has
begun is not followed by another: server-sent events end with an `error` event, anything else with the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.serving.http.answers import error_event, has_body, header, path_of, refuse
from x2i_platform.serving.http.errors import ApiError

CANCEL_S = 5.0
"""Seconds that cancelled work may take to end, before its client is answered anyway."""
FAREWELL_S = 5.0
"""Seconds that a client may take to read the event which says that its time is over."""
MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a request's line and headers. Servers commonly take 8 to 64 KiB."""
BUSY = "{count} uploads are running; at most so many may at once, try again later"
BUSY_S = 10
"""Seconds after which one of the uploads may be done."""


@dataclass(frozen=True)
class BodyRule:
    """What bodies of some routes may be."""

    path: re.Pattern[str]
    max_bytes: int
    timeout_s: float
    """Seconds that a client may keep the application waiting for its body, in all."""
    needs_length: bool = False
    """Whether a body must say how long it is: a proxy in front may read ahead, into its own memory, what this side has
    yet to refuse."""
    at_once: int | None = None
    """Requests with a body that all clients together may have at once."""


def with_bounds(app: ASGIApp, *, rules: Sequence[BodyRule], request_timeout_s: float) -> ASGIApp:
    """The application, behind bounds. Of `rules` the first counts whose pattern is the whole path; one must be.

    `request_timeout_s` counts from the end of the body to the end of the answer.
    """
    running = Counter[BodyRule]()

    async def bounded(scope: Scope, receive: Receive, send: Send) -> None:
        rule = next(rule for rule in rules if rule.path.fullmatch(path_of(scope)))
        counts = rule.at_once is not None and has_body(scope)
        error = _wrong_head(scope, rule=rule)
        if error is None and counts and running[rule] >= (rule.at_once or 0):
            error = ApiError(429, BUSY.format(count=rule.at_once), code="too_many_uploads", retry_after_s=BUSY_S)
        if error:
            await refuse(error, scope, receive, send)
            return
        running[rule] += counts
        try:
            await Bounded(scope, receive, send, rule=rule, request_timeout_s=request_timeout_s).run(app)
        finally:
            running[rule] -= counts

    return bounded


class Bounded:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, rule: BodyRule, request_timeout_s: float) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.rule, self.patience_s, self.request_timeout_s = rule, rule.timeout_s, request_timeout_s
        self.loop = asyncio.get_running_loop()
        self.refusal: asyncio.Future[ApiError] = self.loop.create_future()
        self.bytes_in, self.has_all = 0, False
        self.begun = self.is_events = self.ended = False
        self.timer = self.loop.call_later(request_timeout_s + rule.timeout_s, self._time_is_over)

    async def run(self, app: ASGIApp) -> None:
        """Run the application until its answer ends, or until it is refused."""
        work = asyncio.ensure_future(app(self.scope, self.received, self.sent))
        try:
            await asyncio.wait({work, self.refusal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.timer.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=CANCEL_S)
        if self.refusal.done():
            await self._end(self.refusal.result())
        elif work.cancelled():
            raise RuntimeError("the application cancelled a request's work itself")
        else:
            work.result()

    async def received(self) -> Message:
        """The application's `receive`. Never returns once the request is refused."""
        if self.has_all:
            return await self.receive()
        asked_at = self.loop.time()
        try:
            async with asyncio.timeout(self.patience_s):
                message = await self.receive()
        except TimeoutError:
            seconds = self.rule.timeout_s
            return await self._refused(ApiError(408, f"the body didn't arrive in {seconds:g} s", code="body_timeout"))
        self.patience_s -= self.loop.time() - asked_at
        self.bytes_in += len(message.get("body", b""))
        if self.bytes_in > self.rule.max_bytes:
            return await self._refused(_too_large(self.rule))
        if not message.get("more_body", False):
            self.has_all = True
            self.timer.cancel()
            self.timer = self.loop.call_later(self.request_timeout_s, self._time_is_over)
        return message

    async def sent(self, message: Message) -> None:
        """The application's `send`. Says nothing more once the request is refused."""
        if self.refusal.done():
            return
        if message["type"] == "http.response.start":
            self.begun = True
            self.is_events = (
                Headers(raw=message.get("headers", [])).get("content-type", "").startswith("text/event-stream")
            )
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
        await self.send(message)

    async def _refused(self, error: ApiError) -> Message:
        if not self.refusal.done():
            self.refusal.set_result(error)
        return await self.loop.create_future()

    def _time_is_over(self) -> None:
        message = f"there was no answer in {self.request_timeout_s:g} s; try again later"
        if not self.refusal.done():
            self.refusal.set_result(ApiError(504, message, kind="server_error", code="request_timeout"))

    async def _end(self, error: ApiError) -> None:
        if not self.begun:
            await refuse(error, self.scope, self.receive, self.send)
        elif self.is_events and not self.ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await self.send({"type": "http.response.body", "body": error_event(error), "more_body": False})


def _wrong_head(scope: Scope, *, rule: BodyRule) -> ApiError | None:
    """What a request's head alone is refused for, before a byte of its body is read."""
    size = len(scope.get("raw_path") or scope["path"].encode()) + len(scope.get("query_string", b""))
    if size + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        return ApiError(431, f"path and headers have more than {MAX_HEAD_BYTES:,} bytes", code="head_too_large")
    encoding = header(scope, b"content-encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        message = "packed bodies are not taken; send it without Content-Encoding"
        return ApiError(415, message, code="unsupported_content_encoding")
    length = header(scope, b"content-length")
    if rule.needs_length and header(scope, b"transfer-encoding") is not None:
        return ApiError(411, "the body comes in chunks; send it with Content-Length", code="length_required")
    if length is not None and not (length.isascii() and length.isdigit()):
        return ApiError(400, "Content-Length is no number", code="invalid_content_length")
    if length is not None and (len(length) > 18 or int(length) > rule.max_bytes):
        return _too_large(rule)
    return None


def _too_large(rule: BodyRule) -> ApiError:
    return ApiError(413, f"the body has more than {rule.max_bytes:,} bytes, which is the limit", code="body_too_large")
