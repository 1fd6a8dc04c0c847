"""What every guard rail needs of ASGI: headers of a request, the route it asks for, and a refusal as an answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from x2i_platform.serving.http.errors import ApiError

UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def header(scope: Scope, name: bytes) -> str | None:
    """A request's header; of several with this name the first. Names are in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def has_body(scope: Scope) -> bool:
    """Whether a request says that it has a body."""
    length = header(scope, b"content-length")
    return header(scope, b"transfer-encoding") is not None or length not in (None, "0")


def path_of(scope: Scope) -> str:
    """The path that routes see: without the prefix at which the application is mounted."""
    root = scope.get("root_path", "")
    path: str = scope["path"]
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def is_any_of(path: str, patterns: Iterable[re.Pattern[str]]) -> bool:
    """Whether one of some patterns is the whole path."""
    return any(pattern.fullmatch(path) for pattern in patterns)


def client_of(scope: Scope) -> str:
    """Address of the client. What it says of itself in X-Forwarded-For is not believed."""
    return str(scope["client"][0]) if scope.get("client") else "unknown"


def whole_seconds(seconds: float) -> int:
    """A time to wait for headers: rounded up, at least 1."""
    return max(1, math.ceil(seconds))


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error. The rest of the request is not read."""
    await error.response()(scope, receive, send)


def error_event(error: ApiError) -> bytes:
    """An error as the last server-sent event of an answer that has begun."""
    return f"event: error\ndata: {json.dumps({'type': 'error', **error.body})}\n\n".encode()
