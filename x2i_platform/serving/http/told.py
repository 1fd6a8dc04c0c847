"""What handlers tell about a request, for the line of the audit log."""

from __future__ import annotations

from typing import Any

from fastapi import Request

ANONYMOUS = ""
"""Owner of what is made without a key."""


def tell(request: Request, **facts: Any) -> None:
    """Add facts to a request's line."""
    request.scope.setdefault("state", {}).setdefault("audit", {}).update(facts)


def owner_of(request: Request) -> str:
    """Name of the API key that a request came with."""
    return str(request.scope.get("state", {}).get("key") or ANONYMOUS)
