"""Local files and folders that appear whole or not at all, and locks that end with their process.

Invariants: whenever a writer is killed, and however many write at once, a name holds nothing, what was there before, or
all of what is new; what the killed leave is hidden beside it, as `.NAME.….part`; nobody waits for a process that died.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

POLL_S = 0.2
NAME_CHARS = 40
"""Of a name, in its scratch name: a file's name has at most 255 bytes."""


def publish(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write or replace a file in one step; its folder is made where it is missing. Raises OSError."""
    with published(path, durable=durable) as scratch:
        scratch.write_bytes(content)


@contextmanager
def published(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A scratch file beside `path`, to write to; it takes its place when the block ends, and vanishes if that fails.

    `durable` has it on disk before, so that not even a power cut leaves half a file. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    try:
        scratch.touch()
        mode = scratch.stat().st_mode
        yield scratch
        scratch.chmod(mode)  # safetensors puts a file of its own in its place, which other users can't read
        if durable:
            settle(scratch, path)
        else:
            scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def settle(scratch: Path, path: Path) -> None:
    """Move a finished file of the same disk to its name, all of it on disk before and the name after."""
    sync(scratch)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` for `publish_folder`; what is left of it vanishes with the block. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish_folder(scratch: Path, path: Path) -> None:
    """Move a finished folder of the same disk to its name; of several writers the first one's stays. Raises OSError."""
    try:
        scratch.rename(path)
    except OSError:
        if not path.is_dir():
            raise


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file, which is made where it is missing, or a folder for the length of the block.

    While somebody else holds it this waits, having called `on_wait` once; what that raises, it raises instead of
    waiting. Raises OSError where the file can't be made or the disk doesn't lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not lock_descriptor(descriptor, blocking=False):
            if on_wait:
                on_wait()
            lock_descriptor(descriptor, poll_interval=POLL_S)
        try:
            yield
        finally:
            unlock_descriptor(descriptor)  # closing alone would leave it to a forked child
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:NAME_CHARS]}.{uuid.uuid4().hex}.part")
