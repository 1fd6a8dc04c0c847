"""Who may ask for what: `Authorization: Bearer KEY`, in OpenAI's form.

| route | without a key, where there are keys |
|---|---|
| `/health`, `/ready` | open: probes have no keys |
| `/`, `/playground`, `/playground/…` | open: a page that asks for the key |
| everything else, also `/metrics`, `/docs`, `/openapi.json` | 401 |

Without any keys everything is open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from x2i_platform.serving.http.answers import header, is_any_of, path_of, refuse
from x2i_platform.serving.http.errors import ApiError
from x2i_platform.serving.keys import ApiKey, holder

OPEN = tuple(re.compile(pattern) for pattern in (r"/health", r"/ready", r"/", r"/playground(/.*)?"))
MISSING = "an API key is needed: send the header 'Authorization: Bearer KEY'"
WRONG = "there is no such API key"


def with_keys(app: ASGIApp, *, keys: Sequence[ApiKey]) -> ASGIApp:
    """The application, open to holders of a key. The key's name is then `scope["state"]["key"]`."""

    async def authorized(scope: Scope, receive: Receive, send: Send) -> None:
        presented = _bearer(header(scope, b"authorization"))
        found = holder(keys, presented) if presented else None
        if found:
            scope["state"]["key"] = found.name
        elif not is_any_of(path_of(scope), OPEN):
            error = ApiError(401, WRONG if presented else MISSING, code="invalid_api_key")
            error.headers = {"WWW-Authenticate": "Bearer"}
            await refuse(error, scope, receive, send)
            return
        await app(scope, receive, send)

    return authorized


def _bearer(value: str | None) -> str | None:
    scheme, _, key = (value or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
