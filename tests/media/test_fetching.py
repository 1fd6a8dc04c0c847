"""URLs of strangers: what is fetched, and what is not."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.media.web_host import NAME, Page, WebHost, answer, certificate, web_host
from x2i_platform.errors import InputError
from x2i_platform.media.fetching import Fetcher, Host, is_public

PICTURE = b"\x89PNG picture"
MAX = 1000


def fetched(path: str, page: Page, **options: Any) -> bytes:
    """What a fetch of one page gives."""

    async def run() -> bytes:
        async with web_host({path: page}) as host:
            return await host.fetcher(**options).fetch(host.url(path), kind="image", max_bytes=MAX)

    return asyncio.run(run())


def test_a_picture_of_an_allowed_host_is_fetched_with_nothing_of_ours() -> None:
    async def run() -> WebHost:
        page = answer(PICTURE, Set_Cookie="a=1")
        async with web_host({"/cat.png?size=2": page}) as host:
            fetcher = host.fetcher()
            for _ in range(2):
                url = host.url("/cat.png?size=2#part")
                assert await fetcher.fetch(url, kind="image", max_bytes=len(PICTURE)) == PICTURE
            return host

    host = asyncio.run(run())
    first, second = (request.lower() for request in host.asked)
    assert first == second and f"host: {NAME}:{host.port}\r\n" in first
    assert "accept-encoding: identity" in first
    assert not any(header in first for header in ("cookie", "authorization", "referer"))


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetched("/", answer(PICTURE)) == PICTURE


def test_tls_is_checked_against_the_name_though_the_address_is_pinned(tmp_path: Path) -> None:
    async def run(name: str) -> bytes:
        (tmp_path / name).mkdir()
        server, client = certificate(tmp_path / name, name=name)
        async with web_host({"/": answer(PICTURE)}, tls=server) as host:
            fetcher = host.fetcher(scheme="https", tls=client)
            return await fetcher.fetch(host.url("/", scheme="https"), kind="image", max_bytes=MAX)

    assert asyncio.run(run(NAME)) == PICTURE
    with pytest.raises(InputError, match="it can't be fetched"):
        asyncio.run(run("other.example.com"))


def test_a_certificate_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    async def run() -> bytes:
        async with web_host({"/": answer(PICTURE)}, tls=certificate(tmp_path)[0]) as host:
            fetcher = host.fetcher(scheme="https")
            return await fetcher.fetch(host.url("/", scheme="https"), kind="image", max_bytes=MAX)

    with pytest.raises(InputError, match="it can't be fetched"):
        asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/cat.png",
        "https://images.example.com:444/cat.png",
        "https://other.example.com/cat.png",
        "https://images.example.com.evil.com/cat.png",
        "https://evil.com#@images.example.com/",
        "https://evil.com\\@images.example.com/",
        "https://images.example.com@evil.com/",
        "https://user@images.example.com/",
        "https://:secret@images.example.com/",
        "https://images.example.com./cat.png",
        "https://images.example.com%2eevil.com/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://images.example.com:99999/",
        "https:///cat.png",
        "https:images.example.com",
        "//images.example.com/cat.png",
        "file:///etc/passwd",
        "ftp://images.example.com/cat.png",
        "gopher://images.example.com/",
        "https://images.example.com/" + "a" * 3000,
        "",
    ],
)
def test_other_urls_are_not_asked_for(url: str) -> None:
    async def never(name: str, port: int) -> list[str]:
        raise AssertionError(name)

    fetcher = Fetcher(["images.example.com"], resolve=never)
    assert not fetcher.allows(url)
    with pytest.raises(InputError) as caught:
        asyncio.run(fetcher.fetch(url, kind="image", max_bytes=MAX))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_hosts_are_names_with_a_scheme_and_a_port() -> None:
    assert Host.named("Images.Example.com") == Host("https", "images.example.com", 443)
    assert Host.named("http://images.example.com:8080") == Host("http", "images.example.com", 8080)
    assert Fetcher(["images.example.com"]).allows("HTTPS://IMAGES.example.com:443/a.png")
    for wrong in (
        "",
        "*.example.com",
        "https://a.com/path",
        "ftp://a.com",
        "https://me@a.com",
        "a.com:x",
        "https://",
        "*",
    ):
        with pytest.raises(InputError, match="allowed host"):
            Host.named(wrong)


PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("192.88.99.1", "::1", "::", "fe80::1", "fe80::1%lo", "fc00::1"),
    *("fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:4136:e378::", "name"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_of_the_internet_are_never_connected_to(address: str) -> None:
    assert not is_public(address)

    async def resolve(name: str, port: int) -> list[str]:
        return ["8.8.8.8", address]  # one that isn't is enough

    with pytest.raises(InputError, match="the host has no public address"):
        asyncio.run(Fetcher([NAME], resolve=resolve).fetch(f"https://{NAME}/", kind="image", max_bytes=MAX))


def test_addresses_of_the_internet_are_public() -> None:
    assert all(is_public(address) for address in ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"))


def test_a_private_address_is_refused_even_where_the_list_names_it() -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        fetcher = Fetcher([f"http://{name}:80"])
        with pytest.raises(InputError, match="no public address"):
            asyncio.run(fetcher.fetch(f"http://{name}/", kind="image", max_bytes=MAX))


def test_names_that_do_not_exist_are_told_as_private_ones_are() -> None:
    async def unknown(name: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(InputError, match="the host has no public address"):
        asyncio.run(Fetcher([NAME], resolve=unknown).fetch(f"https://{NAME}/", kind="image", max_bytes=MAX))


def test_a_name_is_resolved_once_and_what_it_resolves_to_later_is_not_used() -> None:
    answers = itertools.chain([["127.0.0.1"]], itertools.repeat(["127.0.0.2"]))
    asked: list[str] = []

    async def rebinding(name: str, port: int) -> list[str]:
        asked.append(name)
        return next(answers)

    assert fetched("/", answer(PICTURE), resolve=rebinding) == PICTURE
    assert asked == [NAME]


def test_a_redirect_is_followed_to_an_allowed_host_alone() -> None:
    def to(place: str) -> bytes:
        return answer(b"", status="302 Found", Location=place)

    async def run(pages: dict[str, bytes], **options: Any) -> bytes:
        async with web_host(pages) as host:
            return await host.fetcher(**options).fetch(host.url("/"), kind="image", max_bytes=MAX)

    three = {"/": to("/1"), "/1": to("2"), "/2": to("./3"), "/3": answer(PICTURE)}
    assert asyncio.run(run(three)) == PICTURE
    with pytest.raises(InputError, match="more than 3 redirects"):
        asyncio.run(run({**three, "/3": to("/4"), "/4": answer(PICTURE)}))
    with pytest.raises(InputError, match="more than 3 redirects"):
        asyncio.run(run({"/": to("/")}))
    for place in ("http://169.254.169.254/latest", f"https://{NAME}/", "//evil.com/", "file:///etc/passwd", "http://["):
        with pytest.raises(InputError):
            asyncio.run(run({"/": to(place)}))


def test_a_redirect_to_a_name_that_became_private_is_refused() -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(name: str, port: int) -> list[str]:
        return next(answers)

    with pytest.raises(InputError, match="no public address"):
        fetched("/", answer(b"", status="307 Temporary Redirect", Location="/"), resolve=rebinding)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (answer(PICTURE, status="404 Not Found"), "the host answered with status 404"),
        (answer(PICTURE, status="500 Internal Server Error"), "status 500"),
        (answer(PICTURE, status="206 Partial Content"), "status 206"),
        (answer(PICTURE, Content_Type="text/html"), "Content-Type is not image/"),
        (answer(PICTURE, Content_Type="video/mp4"), "Content-Type is not image/"),
        (answer(PICTURE, Content_Type=""), "Content-Type is not image/"),
        (answer(b"x" * (MAX + 1)), "more than 1,000 bytes"),
        (answer(b"x" * (MAX + 1), Content_Length=""), "more than 1,000 bytes"),
        (answer(PICTURE, Content_Length="10000000000"), "more than 1,000 bytes"),
        (answer(PICTURE, Content_Length="900"), "it can't be fetched"),
        (answer(b""), "the answer is empty"),
        (answer(gzip.compress(bytes(10**6)), Content_Encoding="gzip"), "the answer is packed"),
        (answer(PICTURE, X_Long="a" * 100_000), "it can't be fetched"),
        (b"SSH-2.0-internal secret\r\n", "it can't be fetched"),
        (b"", "it can't be fetched"),
    ],
)
def test_answers_that_are_not_taken(page: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        fetched("/", page)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_answer_is_cut_where_its_length_lied_and_a_chunked_one_where_it_is_too_long() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()
            sent += 0x10000

    with pytest.raises(InputError, match="more than 1,000 bytes"):
        fetched("/", endless)
    assert sent < 32 * 1024**2


def test_a_slow_answer_has_its_time_and_no_more() -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 900\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"a")
            await asyncio.sleep(0.05)
            await writer.drain()

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2)

    async def forever(name: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    cases: list[tuple[Page, dict[str, Any]]] = [(slow, {}), (silent, {}), (answer(PICTURE), {"resolve": forever})]
    for page, options in cases:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"it took more than 0.5 s"):
            fetched("/", page, timeout_s=0.5, **options)
        assert time.monotonic() - began < 5


def test_a_message_has_no_query_and_no_address() -> None:
    with pytest.raises(InputError) as caught:
        fetched("/x", answer(b"", status="404 Not Found", Content_Length="0"), timeout_s=5)
    assert "127.0.0.1" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        asyncio.run(Fetcher([]).fetch(f"https://{NAME}/a?sig=s3cret#x", kind="image", max_bytes=MAX))
    assert str(caught.value).startswith(f"'https://{NAME}/a': nothing is fetched from this host")
