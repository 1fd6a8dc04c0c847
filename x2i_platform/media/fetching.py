"""Media from hosts that the service's owner allows, for prompts that name a URL.

    fetcher = Fetcher(["images.example.com", "https://cdn.example.com:8443"])
    await fetcher.fetch("https://images.example.com/cat.png", kind="image", max_bytes=30 * MB)

A URL is a stranger's. Invariants: only hosts of the list are asked, also after a redirect; a name is resolved once a
request, the connection goes to an address of that answer, and none is made where one of them is not public, even if the
list names it; no more is read than was allowed, and nothing is unpacked; no cookies, proxies or credentials are sent;
messages say nothing that a host answered, but for its status.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from x2i_platform.errors import InputError, shown

Medium = Literal["image", "video", "audio"]
Addresses = Sequence[str]
Resolve = Callable[[str, int], Awaitable[Addresses]]
SCHEMES = ("https", "http")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3
MAX_URL_CHARS = 2048
TIMEOUT_S = 20.0
CHUNK_BYTES = 64 * 1024
UNICAST_IPV6 = ipaddress.ip_network("2000::/3")
"""All that is routed on the Internet (RFC 4291). Outside of it are mapped, compatible and NAT64 addresses too."""
SIX_TO_FOUR = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("192.88.99.0/24"))
"""Addresses that hold an IPv4 address, and the relays to them (RFC 3056, RFC 7526)."""


@dataclass(frozen=True)
class Host:
    """A host that may be asked."""

    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, url: URL) -> Host:
        """The host of a URL."""
        return cls(url.scheme, url.raw_host or "", url.port or 0)

    @classmethod
    def named(cls, text: str) -> Host:
        """An entry of the list: a name for https, or `SCHEME://NAME:PORT`. Raises InputError."""
        try:
            url = URL(text if "://" in text else f"https://{text}")
            host = cls.of(url)
            bare = url.path in ("", "/") and not (url.query_string or url.fragment or url.raw_user or url.raw_password)
        except ValueError:
            bare = False
        if not bare or host.scheme not in SCHEMES or not host.name or not host.port or "*" in host.name:
            raise InputError(f"allowed host {shown(text)}: give a name, or https://NAME:PORT or http://NAME:PORT")
        return host


def is_public(address: str) -> bool:
    """Whether an address is of the Internet: not of this machine, a private network, or a tunnel to one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if ip.version == 6 and ip not in UNICAST_IPV6:
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or any(ip in each for each in SIX_TO_FOUR))


async def resolve(name: str, port: int) -> Addresses:
    """All addresses of a name, as this machine resolves it. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Fetcher:
    """Fetches from a list of hosts. The other arguments are for tests, which have no Internet."""

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        *,
        timeout_s: float = TIMEOUT_S,
        is_public: Callable[[str], bool] = is_public,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.hosts = frozenset(Host.named(each) for each in allowed_hosts)
        self.timeout_s, self._is_public, self._resolve, self._tls = timeout_s, is_public, resolve, tls

    def allows(self, url: str) -> bool:
        """Whether a URL is one that would be asked for."""
        try:
            self._checked(url)
        except InputError:
            return False
        return True

    async def fetch(self, url: str, *, kind: Medium, max_bytes: int) -> bytes:
        """The bytes of a medium. Raises InputError, in one line, if they can't be had."""
        target = self._checked(url)
        try:
            async with asyncio.timeout(self.timeout_s):
                for _ in range(MAX_REDIRECTS + 1):
                    answer = await self._ask(target, kind=kind, max_bytes=max_bytes)
                    if isinstance(answer, bytes):
                        return answer
                    target = self._checked(answer)
        except TimeoutError:
            raise InputError(f"{_name(target)}: it took more than {self.timeout_s:g} s") from None
        raise InputError(f"{_name(target)}: more than {MAX_REDIRECTS} redirects")

    def _checked(self, url: str) -> URL:
        """A URL whose host is on the list. Raises InputError."""
        try:
            target = URL(url) if len(url) <= MAX_URL_CHARS else None
            host = Host.of(target) if target else None
        except ValueError:
            target = host = None
        if target is None or host is None:
            raise InputError(f"{shown(url)} is no URL that can be fetched")
        if target.raw_user is not None or target.raw_password is not None:
            raise InputError(f"{_name(target)}: a URL must have no user and no password")
        if host not in self.hosts:
            raise InputError(f"{_name(target)}: nothing is fetched from this host; give a data URL")
        return target

    async def _ask(self, url: URL, *, kind: Medium, max_bytes: int) -> bytes | str:
        """The bytes, or where else they are."""
        connector = aiohttp.TCPConnector(
            resolver=_Pinned(await self._addresses(url)), use_dns_cache=False, ssl=self._tls or True, force_close=True
        )
        session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )
        try:
            # The whole has its time in `fetch`; aiohttp's own default is five minutes.
            async with (
                session,
                session.get(
                    url, allow_redirects=False, timeout=aiohttp.ClientTimeout(), headers={"Accept-Encoding": "identity"}
                ) as answer,
            ):
                if answer.status in REDIRECTS:
                    return str(url.join(URL(answer.headers.get("Location", ""))))
                _require_fitting(answer, url=url, kind=kind)
                return await _read(answer, url=url, max_bytes=max_bytes)
        except (aiohttp.ClientError, OSError, ValueError):
            raise InputError(f"{_name(url)}: it can't be fetched") from None

    async def _addresses(self, url: URL) -> Addresses:
        """Where to connect to. Raises InputError unless all addresses of the host are public."""
        host = Host.of(url)
        try:
            addresses = await self._resolve(host.name, host.port)
        except (OSError, UnicodeError):
            addresses = []
        # One message for both: whether a name exists in a private network is nobody's business.
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise InputError(f"{_name(url)}: the host has no public address")
        return addresses


class _Pinned(AbstractResolver):
    """Resolves a connection's host to the addresses that were checked, and to nothing else."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in self.addresses]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=each,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address, each in zip(self.addresses, families, strict=True)
            if family in (socket.AF_UNSPEC, each)
        ]

    async def close(self) -> None:
        """Nothing is open."""


def _require_fitting(answer: aiohttp.ClientResponse, *, url: URL, kind: Medium) -> None:
    if answer.status != 200:
        raise InputError(f"{_name(url)}: the host answered with status {answer.status}")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise InputError(f"{_name(url)}: the answer is packed, which is not taken")
    if not answer.content_type.startswith(f"{kind}/"):
        raise InputError(f"{_name(url)}: the answer's Content-Type is not {kind}/…")


async def _read(answer: aiohttp.ClientResponse, *, url: URL, max_bytes: int) -> bytes:
    too_large = f"{_name(url)}: more than {max_bytes:,} bytes; at most so many are taken"
    if (answer.content_length or 0) > max_bytes:
        raise InputError(too_large)
    data = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
        data += chunk
        if len(data) > max_bytes:
            raise InputError(too_large)
    if not data:
        raise InputError(f"{_name(url)}: the answer is empty")
    return bytes(data)


def _name(url: URL) -> str:
    """A URL as messages quote it: its query may hold a signature."""
    return shown(f"{url.scheme}://{url.host_port_subcomponent}{url.raw_path}")
