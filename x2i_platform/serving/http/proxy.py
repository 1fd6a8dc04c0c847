"""What Ray Serve's HTTP proxy must know of the guard rails: it reads requests before the application does.

Its processes call `rails` if their environment has `VARIABLE=CALLBACK` when they start. Invariants: heads are bounded;
a client can't tell the proxy to hide that it went away, nor how long to wait; an answer has one request id; nobody is
told which applications run here.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.serving.http.audit import REQUEST_ID
from x2i_platform.serving.http.heads import bound_heads

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Ray Serve calls the function that this names in each proxy's process, before it starts uvicorn."""
CALLBACK = f"{__name__}.rails"
OF_RAY = ("x-request-disconnect-disabled", "x-request-timeout-seconds", "serve_multiplexed_model_id")
"""Headers with which a client would steer the proxy (ray/serve/_private/constants.py of Ray 2.60)."""
ID = "x-request-id"
ROUTES = "/-/routes"
NOWHERE = "/-/nowhere"


def rails() -> list[Middleware]:
    """The proxy's layers; uvicorn's heads are bounded from now on."""
    bound_heads()
    return [Middleware(Rails)]


class Rails:
    """The layer around Ray Serve's own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, without what only Ray is meant to say."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        for name in OF_RAY:
            del headers[name]
        if not REQUEST_ID.fullmatch(headers.get(ID, "")):
            del headers[ID]  # Ray makes one
        if scope["path"].rstrip("/") == ROUTES:
            scope["path"], scope["raw_path"] = NOWHERE, NOWHERE.encode()
        await self.app(scope, receive, _with_one_id(send))


def _with_one_id(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if ids := headers.getlist(ID):
                headers[ID] = ids[0]
        await send(message)

    return sent
