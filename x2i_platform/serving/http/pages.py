"""Lists in pages, as OpenAI's: `limit` of them `after` the one with an id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from x2i_platform.serving.http.errors import ApiError

Order = Literal["asc", "desc"]


class Listed(Protocol):
    """What can be in a list."""

    @property
    def id(self) -> str:
        """Of the client's view."""

    def body(self) -> dict[str, Any]:
        """What a client is shown."""


def page_of(found: Sequence[Listed], *, limit: int, after: str | None, order: Order) -> dict[str, Any]:
    """OpenAI's list object of what was found, given with the oldest first.

    Raises ApiError if nothing with the id `after` was found.
    """
    ordered = list(found) if order == "asc" else list(reversed(found))
    begin = 0
    if after is not None:
        places = [place for place, each in enumerate(ordered) if each.id == after]
        if not places:
            raise ApiError(400, f"after: {after[:100]!r} is not in the list", param="after")
        begin = places[0] + 1
    shown = ordered[begin : begin + limit]
    return {
        "object": "list",
        "data": [each.body() for each in shown],
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": begin + limit < len(ordered),
    }
