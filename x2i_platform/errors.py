"""Every error a user can cause, as one family: the command line prints these as one line and exits with 2.

Invariant: no message shows a password that stands in a URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

NO_SLASHES = re.compile(r"(?<![\w/.+-])[\w.+-]+:(?!/)")
"""The beginning of `user:password@host`, with or without a scheme; it doesn't match `models:/name@alias`."""
NAMED_VALUE = re.compile(r"((?:^|(?<=[\s?&;#]))([^\s=&;?#]{1,64})=)[^&\s]+")
SECRET_NAME = re.compile(r"pass|pwd|secret|token|key|credential|signature|^sig$|auth|odbc_connect", re.IGNORECASE)

MAX_REASON = 300
"""Characters of a library's message that one of ours quotes."""
SECRET_WORD = re.compile(r"(\w+_)?(password|passwd|pass|pwd|secret|token|secret_access_key|api_key)", re.IGNORECASE)
"""Names of secrets outside of URLs, where `key=value` and `targets.text_tokens=16` are none."""


def redacted(text: str) -> str:
    """The text without user names, passwords and secret parameters of its URLs.

    A password may hold unescaped `/` and `@`; of several ways to read a URL, the one that hides most is used.
    """
    return NAMED_VALUE.sub(_without_secret, re.sub(r"\S+", _without_user, text))


def _without_user(word: re.Match[str]) -> str:
    before, at, place = word[0].rpartition("@")
    if not at or not place:
        return word[0]
    head, slashes, user = before.partition("//")
    if not slashes:
        begin = NO_SLASHES.search(before)
        return f"{before[: begin.start()]}***@{place}" if begin else word[0]
    # In `s3://bucket/run@1` the `@` is no user's; in `mysql://me:a/b@host` it is.
    path = user.startswith("/")
    is_user = ":" in user if "/" in user else not path
    return f"{head}//***@{place}" if is_user else word[0]


def _without_secret(found: re.Match[str]) -> str:
    in_url = found.string[max(found.start() - 1, 0)] in "?&;#"
    secret = SECRET_NAME.search(found[2]) if in_url else SECRET_WORD.fullmatch(found[2])
    return f"{found[1]}***" if secret else found[0]


def shown(text: str) -> str:
    """A user's text as messages quote it: shortened."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


class X2IError(Exception):
    """Base class. The message names the thing, the value found, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class ConfigError(X2IError):
    """A recipe, a `--set` or an option that can't be used."""


class WeightsError(X2IError):
    """Model weights that are missing, damaged, or of another architecture than asked for."""


class InputError(X2IError):
    """Captions or requests that can't be read, or too many of them bad."""


class StoreError(X2IError):
    """A feature store that is missing, damaged, or made by another recipe."""


class TrainingError(X2IError):
    """Training that must not go on: a non-finite loss, no data, a run that belongs to other settings."""


class RegistryError(X2IError):
    """A tracking server, registered model, version or alias that isn't there."""


class ClusterError(X2IError):
    """A Ray cluster that can't be reached or is too small for the plan."""


@contextmanager
def raising(kind: type[X2IError], doing: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn errors of disks, networks and libraries into one of ours: `DOING: reason`, in one line."""
    try:
        yield
    except errors as error:
        # Cut after hiding: half a URL's password would not be recognized.
        raise kind(f"{doing}: {redacted(_reason(error, doing=doing))[:MAX_REASON]}") from error


def _reason(error: Exception, *, doing: str) -> str:
    """The first line of an error's text. Below it SQLAlchemy shows the statement with its values."""
    # An OSError's own text has the error's number, and the file even where `doing` names it.
    text, file = getattr(error, "strerror", None) or error, getattr(error, "filename", None)
    lines = [" ".join(line.split()) for line in str(text).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return reason if text is error or file is None or str(file) in doing else f"{reason}: '{file}'"


def to_text(error: X2IError) -> str:
    """An error as text that `from_text` restores: exceptions lose their causes on the way between processes."""
    kinds = (kind.__name__ for kind in type(error).__mro__ if kind in X2IError.__subclasses__())
    return f"{next(kinds, X2IError.__name__)}: {error}"


def from_text(text: str) -> X2IError:
    """The error that `to_text` wrote down."""
    name, _, message = text.partition(": ")
    kinds = {kind.__name__: kind for kind in X2IError.__subclasses__()}
    return kinds.get(name, X2IError)(message)
