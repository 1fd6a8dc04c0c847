"""Counts answers by route and status."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.serving.metrics import Metrics


class Counted:
    """Middleware that counts and changes nothing."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        def count(status: int) -> None:
            # The route's template, not the path: ids would make a series each.
            self.metrics.answers.labels(getattr(scope.get("route"), "path", "none"), status).inc()

        async def counted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                count(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            if not begun:  # what becomes of it is answered outside of here
                count(500)
            raise
