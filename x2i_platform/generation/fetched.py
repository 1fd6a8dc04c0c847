"""Prompts with URLs become prompts with data URLs.

Invariant: one prompt costs a bounded number of requests, and a bounded amount of memory.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from x2i_platform.errors import InputError
from x2i_platform.generation.content import MAX_BYTES, ContentPart, Message
from x2i_platform.media.fetching import Fetcher, Medium
from x2i_platform.media.limits import MB

MAX_URLS = 8
MAX_FETCHED_BYTES = 128 * MB
"""Of all URLs of a prompt: one video at its limit."""


async def fetched(messages: Sequence[Message], fetcher: Fetcher) -> tuple[Message, ...]:
    """The messages with the bytes of their URLs, each fetched once.

    Raises InputError for what can't be fetched, and for more than `MAX_URLS` or `MAX_FETCHED_BYTES`.
    """
    wanted = list(dict.fromkeys(part for message in messages for part in map(_bare, message.parts) if is_url(part)))
    if len(wanted) > MAX_URLS:
        raise InputError(f"prompt has {len(wanted)} URLs; at most {MAX_URLS} are fetched, send the others as data URLs")
    found: dict[ContentPart, str] = {}
    left = MAX_FETCHED_BYTES
    for part in wanted:  # one after the other, so that what is left is known
        kind = cast(Medium, part.kind)
        if not left:
            raise InputError(
                f"prompt: its URLs have more than {MAX_FETCHED_BYTES:,} bytes; at most so many are fetched"
            )
        data = await fetcher.fetch(part.value, kind=kind, max_bytes=min(left, MAX_BYTES[kind]))
        left -= len(data)
        found[part] = f"data:{kind}/fetched;base64,{base64.b64encode(data).decode()}"
    return tuple(
        replace(
            message,
            parts=tuple(replace(part, value=found.get(_bare(part), part.value)) for part in message.parts),
        )
        for message in messages
    )


def is_url(part: ContentPart) -> bool:
    """Whether a part is yet to be fetched."""
    return part.kind != "text" and part.value[:8].lower().startswith(("http://", "https://"))


def _bare(part: ContentPart) -> ContentPart:
    """A part without its weight: the same picture may be there with two."""
    return replace(part, weight=1.0)
