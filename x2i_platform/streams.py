"""Files to read, wherever they lie and however they are packed. What goes wrong becomes one error that names the file.

Invariant: of what disks, networks, object stores and packers raise, nothing passes as it is. An EOFError would even
read as an interruption: that is what the command line's library takes it for.
"""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError

from x2i_platform.errors import InputError, raising

OUTSIDE = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile),
    *(BotoCoreError, ClientError, aiohttp.ClientError),
)
"""What a file may raise while it is read."""
UNREACHABLE = (*OUTSIDE, ValueError, ImportError)
"""What asking for a file may raise: also a protocol that nobody knows, or whose library isn't installed."""


@contextmanager
def opened(path: str, *, what: str) -> Iterator[io.BufferedReader]:
    """The bytes of a file, unpacked where its name says so, for the length of the block. Raises InputError."""
    compression = "gzip" if path.lower().endswith(".tgz") else "infer"
    with ExitStack() as closing:
        with raising(InputError, f"{what} '{path}' can't be read", UNREACHABLE):
            handle = closing.enter_context(fsspec.open(path, "rb", compression=compression))
        with raising(InputError, f"{what} '{path}' can't be read", OUTSIDE):
            # An object store's handle reads lines of any length only; the buffer reads them piece by piece.
            yield io.BufferedReader(handle)
