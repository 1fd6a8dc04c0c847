"""Whether a web page may be behind a request, to a service that asks for no key.

A page of any site can make the browser of somebody at this machine send requests to 127.0.0.1. Its requests are known
by `Origin` and `Sec-Fetch-Site`, which pages can't change; and where its own name was made to resolve to 127.0.0.1, by
`Host`. With keys none of this is needed: a page has none.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from x2i_platform.serving.http.answers import UNSAFE_METHODS, header, refuse
from x2i_platform.serving.http.errors import ApiError
from x2i_platform.serving.keys import is_loopback

OTHER_SITES = frozenset({"cross-site", "same-site"})
"""Values of Sec-Fetch-Site. Another port of this machine is "same-site"."""
UNTRUSTED_HOST = "this service has no keys and answers to loopback names alone; ask for it as http://127.0.0.1:PORT"
OTHER_ORIGIN = "pages of other sites can't use this service; it has no keys and doesn't allow their origin"


def with_origins(app: ASGIApp, *, trusted_hosts: Collection[str], cors_origins: Collection[str]) -> ASGIApp:
    """The application, behind checks of `Host` and of the page that a request comes from."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        host = header(scope, b"host") or ""
        name = _name(host)
        if name not in trusted_hosts and not is_loopback(name):
            error = ApiError(403, UNTRUSTED_HOST, code="untrusted_host")
            await refuse(error, scope, receive, send)
        elif scope["method"] in UNSAFE_METHODS and _from_elsewhere(scope, host=host, allowed=cors_origins):
            await refuse(ApiError(403, OTHER_ORIGIN, code="untrusted_origin"), scope, receive, send)
        else:
            await app(scope, receive, send)

    return checked


def _name(host: str) -> str:
    """The name in a Host header, without its port; "" for none that could be one."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_elsewhere(scope: Scope, *, host: str, allowed: Collection[str]) -> bool:
    origin = header(scope, b"origin")
    if origin is None:
        return header(scope, b"sec-fetch-site") in OTHER_SITES
    # Only host and port: behind a proxy that speaks TLS the scheme differs.
    return origin not in allowed and origin.partition("://")[2].lower() != host.lower()
