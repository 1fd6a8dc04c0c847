"""The outermost layer: a request's id, its line in the audit log, and what answers always or never hold.

    {"images": 1, "version": "models:/mini/3", "time": "2026-01-31T12:00:00Z", "id": "req_5f…", "key": "alice",
     "client": "127.0.0.1", "method": "POST", "route": "/v1/images/generations", "path": …, "status": 200,
     "seconds": 1.25, "bytes_in": 31, "bytes_out": 88123, "disconnected": false}

Handlers add to the line in `scope["state"]["audit"]`. Invariants: there is one line a request, whatever happens; a line
has no key, and the words of a prompt only where they are asked for; an answer has no traceback, class or path of a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.media.limits import MB
from x2i_platform.serving.http.answers import client_of, has_body, header, path_of, refuse
from x2i_platform.serving.http.errors import ApiError

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PROMPT = "prompt"
"""The fact that handlers add and that is only logged where it is asked for."""
MAX_PATH_CHARS = 200
MAX_LOG_BYTES, OLD_LOGS = 64 * MB, 9
LINGER_S = 2.0
"""Seconds for which a client that was refused before it had sent all may go on, before the connection is closed."""
LINGER_BYTES = 16 * MB
"""Bytes that it may send meanwhile: Ray Serve's proxy keeps what comes faster than it is passed on."""
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer that has no such header of its own."""
BUG = "something went wrong here; the service's log has it under the request id {id}"

log = logging.getLogger(__name__)
audit_log = logging.getLogger("x2i_platform.audit")


@dataclass
class Exchange:
    """What has passed so far of a request and its answer."""

    scope: Scope
    id: str
    receive: Receive
    send: Send
    body_pending: bool
    status: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    complete: bool = False
    gone: bool = False
    disconnected: bool = False
    """Whether the client went before it had the whole answer."""
    replaced: bool = False
    """Whether the application's answer is thrown away, because it is that of a bug."""

    async def received(self) -> Message:
        """The application's `receive`."""
        message = await self.receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self.body_pending = message.get("more_body", False)
        else:
            self.gone, self.disconnected = True, self.disconnected or not self.complete
        return message

    async def sent(self, message: Message) -> None:
        """The application's `send`."""
        if self.replaced:
            return
        if message["type"] == "http.response.start":
            kind = Headers(raw=message.get("headers", [])).get("content-type", "")
            if message["status"] == 500 and "json" not in kind:
                await self.answer_a_bug()
                return
            self._begin(message)
        elif message["type"] == "http.response.body":
            self.bytes_out += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.complete and self.body_pending:
                await self.send({**message, "more_body": True})
                await self._linger()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self.send(message)

    async def _linger(self) -> None:
        """Read on for a moment: to a client that is still sending, a closed connection hides the answer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                most = self.bytes_in + LINGER_BYTES
                while self.body_pending and not self.gone and self.bytes_in < most:
                    await self.received()

    async def answer_a_bug(self) -> None:
        """The fixed text. What frameworks answer instead depends on their settings, and may be a traceback."""
        error = ApiError(500, BUG.format(id=self.id), kind="server_error")
        await refuse(error, self.scope, self.received, self.sent)
        self.replaced = True

    def _begin(self, message: Message) -> None:
        self.status = message["status"]
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self.id
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if self.body_pending:
            # Otherwise a client could go on sending, a byte a minute, after its answer.
            headers["Connection"] = "close"

    def line(self, *, seconds: float, log_prompts: bool) -> dict[str, Any]:
        """The line of the audit log. What handlers add can't replace what is known."""
        told = self.scope["state"]["audit"]
        return {
            **{name: value for name, value in told.items() if name != PROMPT or log_prompts},
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": self.id,
            "key": self.scope["state"].get("key"),
            "client": client_of(self.scope),
            "method": self.scope["method"],
            "route": getattr(self.scope.get("route"), "path", None),
            "path": path_of(self.scope)[:MAX_PATH_CHARS],
            "status": self.status,
            "seconds": round(seconds, 4),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "disconnected": self.disconnected,
        }


def log_to(path: Path) -> None:
    """Write the lines to a file, which is set aside as PATH.1 and so on when it is long. Once a process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=MAX_LOG_BYTES, backupCount=OLD_LOGS, encoding="utf-8")
    audit_log.addHandler(handler)
    audit_log.setLevel(logging.INFO)
    audit_log.propagate = False  # or Ray would write each line to a log of its own


def with_audit(app: ASGIApp, *, log_prompts: bool) -> ASGIApp:
    """The application, audited. Its errors end here: logged with the request's id, and answered with a fixed text."""

    async def audited(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = header(scope, b"x-request-id")
        id_ = wanted if wanted and REQUEST_ID.fullmatch(wanted) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {}).update(audit={}, request_id=id_)
        exchange = Exchange(scope, id_, receive, send, body_pending=has_body(scope))
        began = time.monotonic()
        try:
            await app(scope, exchange.received, exchange.sent)
        except Exception:
            log.exception("request %s failed", id_)
            # Of an answer that has begun no more is sent: the server then closes the connection.
            if exchange.status is None:
                await exchange.answer_a_bug()
        finally:
            line = exchange.line(seconds=time.monotonic() - began, log_prompts=log_prompts)
            audit_log.info("%s", json.dumps(line, default=str))

    return audited
