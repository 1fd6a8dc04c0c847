"""A web host on loopback that answers as a test wants it to, over TLS or without; and clients that may ask it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from x2i_platform.media.fetching import Fetcher

NAME = "images.example.com"
Page = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *, status: str = "200 OK", **headers: str) -> bytes:
    """An answer with a Content-Length, unless `headers` say otherwise. Of names `_` becomes `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    every = {"Content-Type": "image/png", "Content-Length": str(len(body)), **named}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in every.items() if value), "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class WebHost:
    """Where it listens, and what it was asked."""

    port: int
    pages: Mapping[str, Page]
    asked: list[str] = field(default_factory=list)

    def url(self, path: str, *, scheme: str = "http", name: str = NAME) -> str:
        return f"{scheme}://{name}:{self.port}{path}"

    def fetcher(self, *, scheme: str = "http", **options: Any) -> Fetcher:
        """One that may ask this host, and that takes loopback for public."""
        standard: dict[str, Any] = {"is_public": lambda address: address == "127.0.0.1", "resolve": loopback}
        return Fetcher([f"{scheme}://{NAME}:{self.port}"], **(standard | options))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.asked.append(request)
            page = self.pages.get(request.split()[1], answer(b"", status="404 Not Found"))
            if isinstance(page, bytes):
                writer.write(page)
                await writer.drain()
            else:
                await page(writer)
        writer.close()


async def loopback(name: str, port: int) -> list[str]:
    """Every name is this machine's."""
    return ["127.0.0.1"]


@contextlib.asynccontextmanager
async def web_host(pages: Mapping[str, Page], *, tls: ssl.SSLContext | None = None) -> AsyncIterator[WebHost]:
    """The host, for the length of the block."""
    host = WebHost(0, pages)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


def certificate(folder: Path, *, name: str = NAME) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a host with a certificate for a name, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    host = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    host.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return host, ssl.create_default_context(cadata=pem.decode())
