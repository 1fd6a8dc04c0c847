"""Prompts with URLs become prompts with data URLs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.media.web_host import WebHost, answer, web_host
from x2i_platform.errors import InputError
from x2i_platform.generation.content import MAX_BYTES, Message, identity_of, parse_prompt
from x2i_platform.generation.fetched import MAX_FETCHED_BYTES, MAX_URLS, fetched

PAGES = {
    "/cat.png": answer(b"cat"),
    "/say.wav": answer(b"speech", Content_Type="audio/wav"),
    **{f"/{number}.png": answer(b"%d" % number) for number in range(10)},
}


def run(parts: Any, pages: Any = PAGES) -> tuple[tuple[Message, ...], WebHost]:
    """A prompt, fetched; `parts` makes it of the host."""

    async def ask() -> tuple[tuple[Message, ...], WebHost]:
        async with web_host(pages) as host:
            fetcher = host.fetcher()
            messages = parse_prompt(parts(host), folder=None, may_fetch=fetcher.allows)
            return await fetched(messages, fetcher), host

    return asyncio.run(ask())


def test_urls_are_replaced_by_what_lies_there_and_the_rest_stays() -> None:
    data = "data:image/png;base64,Y2F0"

    def parts(host: WebHost) -> list[Any]:
        return [
            {"role": "user", "content": [{"type": "image", "image": host.url("/cat.png").replace("http", "HTTP")}]},
            {"role": "assistant", "content": "a cat"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": host.url("/0.png")},
                    {"type": "image_url", "image_url": {"url": host.url("/cat.png")}, "weight": 0.5},
                    {"type": "image_url", "image_url": {"url": host.url("/cat.png")}},
                    {"type": "audio_url", "audio_url": host.url("/say.wav")},
                    {"type": "image", "image": data},
                ],
            },
        ]

    messages, host = run(parts)
    first, _, last = messages
    assert [part.value for part in last.parts[:1]] == [host.url("/0.png")]
    media = [*first.parts, *last.parts[1:]]
    assert [part.content() for part in media] == [b"cat", b"cat", b"cat", b"speech", b"cat"]
    assert [part.weight for part in media] == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert [request.split()[1] for request in host.asked].count("/cat.png") <= 2  # of two spellings
    assert identity_of(messages)


def test_a_prompt_has_so_many_urls_and_bytes() -> None:
    def pictures(count: int) -> Any:
        return lambda host: [{"type": "image", "image": host.url(f"/{number}.png")} for number in range(count)]

    messages, host = run(pictures(MAX_URLS))
    assert len(host.asked) == len(messages[0].parts) == MAX_URLS
    with pytest.raises(InputError, match="prompt has 9 URLs; at most 8 are fetched"):
        run(pictures(MAX_URLS + 1))
    fifth = answer(bytes(MAX_FETCHED_BYTES // 5 + 1))
    with pytest.raises(InputError, match="at most so many are taken"):
        run(pictures(5), {f"/{number}.png": fifth for number in range(5)})
    with pytest.raises(InputError, match="at most so many are taken"):
        run(pictures(1), {"/0.png": answer(bytes(MAX_BYTES["image"] + 1))})


def test_urls_that_may_not_be_fetched_are_refused_as_ever() -> None:
    for allowed in (None, lambda url: False):
        with pytest.raises(InputError, match="is a URL; nothing is fetched, give a file or a data URL"):
            parse_prompt([{"type": "image", "image": "https://a.com/cat.png"}], folder=None, may_fetch=allowed)
    with pytest.raises(InputError, match="only data URLs are taken"):
        parse_prompt([{"type": "image", "image": "cat.png"}], folder=None, may_fetch=lambda url: True)
