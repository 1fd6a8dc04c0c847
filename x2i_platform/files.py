"""Local files and folders that appear whole or not at all, and locks that end with their process.

Invariants: whenever a writer is killed, and however many write at once, a name holds nothing, the old content or all of
the new content. Killed writers leave hidden files beside it, `.NAME.….part`. Nobody waits for a process that died.
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
"""Characters of a file's name that its scratch name keeps: a name may have at most 255 bytes."""


def publish(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write or replace a file in one step; its folder is made where it is missing. Raises OSError."""
    with published(path, durable=durable) as scratch:
        scratch.write_bytes(content)


@contextmanager
def published(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a scratch file beside `path`; it replaces `path` when the block ends, and is removed if the block fails.

    With `durable` the content is on disk before that, so a power cut can't leave half a file. Raises OSError.
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
    """Move a finished file of the same disk to its name; its content is on disk before, its name afterwards."""
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
    """Yield a fresh folder beside `path` for `publish_folder`; it is removed when the block ends. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish_folder(scratch: Path, path: Path) -> None:
    """Move a finished folder of the same disk to its name. If several writers race, the first one's stays. Raises
    OSError.
    """
    try:
        scratch.rename(path)
    except OSError:
        if not path.is_dir():
            raise


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Lock a file (created if missing) or a folder for the length of the block.

    If somebody else holds it, call `on_wait` once and wait; an exception from `on_wait` is raised instead of waiting.
    Raises OSError if the file can't be created or the disk has no locks.
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
