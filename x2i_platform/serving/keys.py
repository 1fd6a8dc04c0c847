"""API keys: who may use a service. Only digests leave this module, so no key can reach a log, a replica or a message.

    # NAME KEY
    alice 5f0c…

Invariant: a file is refused that others than its owner may read.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2i_platform.errors import ConfigError, shown

VARIABLE = "X2I_API_KEYS"
MIN_KEY_CHARS = 20
"""A key that is made at random needs no slow hash: 20 characters of base64 are 120 bits."""
MAX_FILE_BYTES = 1024**2
NAME = re.compile(r"[\w.-]{1,40}", re.ASCII)
KEY = re.compile(r"[\x21-\x7e]+")
COMMENT = re.compile(r"\s*(#.*)?")
"""A line that holds no key. Behind one there is no comment: keys may have a `#`."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LOOPBACK_NAME = "localhost"


@dataclass(frozen=True)
class ApiKey:
    """Somebody who may use the service."""

    name: str
    sha256: str
    """Hexadecimal digest of the key."""

    @classmethod
    def of(cls, name: str, key: str) -> ApiKey:
        """The entry of a key."""
        return cls(name, _digest(key))


def read_keys(path: Path | None, environment: Mapping[str, str]) -> tuple[ApiKey, ...]:
    """The keys of a file and of the variable X2I_API_KEYS: lines of a name and a key.

    Raises ConfigError for a file that is missing or that others may read, for a line that is none, for a key that is
    too short, and for a name or a key that is there twice.
    """
    lines = [] if path is None else [(f"'{path}', line {at}", line) for at, line in enumerate(_lines_of(path), start=1)]
    variable = environment.get(VARIABLE, "").splitlines()
    lines += [(f"{VARIABLE}, line {at}", line) for at, line in enumerate(variable, start=1)]
    keys = tuple(_parsed(line, place=place) for place, line in lines if not COMMENT.fullmatch(line))
    if path is not None and not keys:
        raise ConfigError(f"API keys: '{path}' has none; write lines 'NAME KEY'")
    _require_unique((key.name for key in keys), what="name")
    _require_unique((key.sha256 for key in keys), what="key", say=False)
    return keys


def holder(keys: Sequence[ApiKey], presented: str) -> ApiKey | None:
    """Who has this key. Takes as long for any key: every digest is compared, each in constant time."""
    digest, found = _digest(presented), None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found


def require_keys(keys: Sequence[ApiKey], *, host: str) -> None:
    """Raise ConfigError for a service without keys that other machines can reach."""
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in, so API keys are needed: give a file of lines 'NAME KEY', "
            f"set {VARIABLE}, or keep to --host 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own loopback; nothing is resolved."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == LOOPBACK_NAME


def _lines_of(path: Path) -> list[str]:
    try:
        with path.open("rb") as handle:
            # Asked of the open file: at its path another one may lie by then.
            mode = os.fstat(handle.fileno()).st_mode
            if mode & OTHERS:
                raise ConfigError(f"API keys: others than you may read '{path}'; run chmod 600 on it")
            data = handle.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"API keys: '{path}' has more than {MAX_FILE_BYTES:,} bytes; it has a line a key")
        return data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"API keys: '{path}' can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"API keys: '{path}' is not text in UTF-8") from None


def _parsed(line: str, *, place: str) -> ApiKey:
    """A key from its line. No message quotes what could be one."""
    words = line.split()
    if len(words) != 2:
        raise ConfigError(f"API keys: {place}: {len(words)} words; a line is 'NAME KEY'")
    name, key = words
    if not NAME.fullmatch(name):
        raise ConfigError(f"API keys: {place}: a name has up to 40 letters, digits, '.', '_' and '-'")
    if len(key) < MIN_KEY_CHARS or not KEY.fullmatch(key):
        raise ConfigError(
            f"API keys: {place}: the key of {shown(name)} has {len(key)} characters; at least {MIN_KEY_CHARS} of ASCII "
            "are needed, such as those of: openssl rand -base64 32"
        )
    return ApiKey.of(name, key)


def _require_unique(values: Iterable[str], *, what: str, say: bool = True) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"API keys: a {what} is there twice{f': {shown(value)}' if say else ''}")
        seen.add(value)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
