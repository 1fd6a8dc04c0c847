"""Keys of a Ray cluster that is started here, so that nobody else can talk to it, whatever address its ports are on.

gRPC takes only clients with a certificate that was made for this cluster, Ray's HTTP agents only those with its token.
Of a cluster that somebody else started it can be asked whether it has such keys.
Invariants: the key that signs never leaves this process; what is written is readable by its owner alone, and gone with
the cluster. Why both: ADR 13.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

LIFETIME = datetime.timedelta(days=3650)
"""Lifetime of certificates: a service may run for years, and without the signing key a long life is harmless."""
CLOCK_SKEW = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


@contextmanager
def own_keys() -> Iterator[None]:
    """For the length of the block, everything that Ray starts from this process is locked with fresh keys."""
    with tempfile.TemporaryDirectory(prefix="x2i-ray-keys-") as folder:
        certificate, key, authority = write_keys(Path(folder))
        settings = {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(certificate),  # Ray's processes are clients of one another by the same one
            "RAY_TLS_SERVER_KEY": str(key),
            "RAY_TLS_CA_CERT": str(authority),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        before = {name: os.environ.get(name) for name in settings}
        _set(settings)
        try:
            yield
        finally:
            _set(before)


def is_locked() -> bool:
    """Whether the connected cluster refuses strangers; a worker is asked, because it knows."""
    return bool(ray.get(ray.remote(num_cpus=0)(_refuses_strangers).remote()))


def _refuses_strangers() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") or bool(is_token_auth_enabled())


def _set(settings: dict[str, str] | dict[str, str | None]) -> None:
    """Change environment variables and make Ray read them again: it reads them only on import."""
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def write_keys(folder: Path) -> tuple[Path, Path, Path]:
    """Write a certificate for this machine's loopback, its key, and the certificate of the authority that signed it."""
    signing, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("x2i-platform authority", key=signing, signing=signing, is_authority=True)
    certificate = _certificate("x2i-platform", key=key, signing=signing, is_authority=False)
    pem = serialization.Encoding.PEM
    return (
        _write(folder / "certificate.pem", certificate.public_bytes(pem)),
        _write(
            folder / "key.pem",
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        ),
        _write(folder / "authority.pem", authority.public_bytes(pem)),
    )


def _certificate(name: str, *, key: Key, signing: Key, is_authority: bool) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    loopback = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    builder = x509.CertificateBuilder(
        issuer_name=_name("x2i-platform authority"),
        subject_name=_name(name),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - CLOCK_SKEW,
        not_valid_after=now + LIFETIME,
    ).add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    if not is_authority:
        builder = builder.add_extension(x509.SubjectAlternativeName(loopback), critical=False)
    return builder.sign(signing, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, content: bytes) -> Path:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path
