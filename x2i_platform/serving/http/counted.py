"""Counts answers by route and status."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from x2i_platform.serving.metrics import Metrics


class Counted:
    """Middleware that counts and changes nothing."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route's template, not the path: ids would make a series each.
                route = getattr(scope.get("route"), "path", "none")
                self.metrics.answers.labels(route, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)
