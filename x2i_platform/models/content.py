"""The identity of a folder's weights: one hash over all bytes of all its files.

Weights are large and seldom change, so each file's hash is kept in the cache folder with the file's size and times.
Invariants: a file that has changed since is hashed again; a damaged or lost cache entry costs only time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from x2i_platform.cache import cache_folder
from x2i_platform.files import publish

LOADED = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Endings of the files that models are loaded from."""
WORTH_KEEPING_BYTES = 2**20
WORTH_SAYING_BYTES = 2**30
SETTLED_S = 2.0
"""A file written less than this ago may be written again without its times changing, so its hash is not kept."""
log = logging.getLogger(__name__)


def content_digest(folder: Path) -> str:
    """Return the SHA-256 over names, sizes and contents of a folder's files."""
    paths = sorted(_loaded_files(folder), key=lambda path: path.relative_to(folder).as_posix())
    total = hashlib.sha256()
    for path, digest in zip(paths, _digests(folder, paths), strict=True):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0{digest}\0".encode())
    return total.hexdigest()


def _loaded_files(folder: Path) -> Iterator[Path]:
    """Yield the files that models are loaded from. Follows links to folders; skips hidden files and folders."""
    entered = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        below = {name: Path(parent, name).resolve() for name in folders if not name.startswith(".")}
        # Skip a folder that was entered already: a link to it adds no file and may lead in a circle.
        folders[:] = [name for name, place in below.items() if place not in entered]
        entered |= set(below.values())
        yield from (Path(parent, name) for name in names if name.endswith(LOADED) and not name.startswith("."))


def _digests(folder: Path, paths: Sequence[Path]) -> list[str]:
    """Return each file's SHA-256; files that haven't changed since are not read again."""
    notes = cache_folder() / "hashes" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()}.json"
    known = _read(notes)
    marks = {path: _mark(path) for path in paths}
    unread = [path for path in paths if marks[path] not in known]
    size = sum(path.stat().st_size for path in unread)
    if size >= WORTH_SAYING_BYTES:
        log.warning("hashing %.1f GB of weights in %s, once", size / 1e9, folder)
    found = {path: known[marks[path]] for path in paths if path not in unread}
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        found |= zip(unread, pool.map(_sha256, unread), strict=True)
    settled = {
        marks[path]: digest
        for path, digest in found.items()
        if path.stat().st_size >= WORTH_KEEPING_BYTES
        and marks[path] == _mark(path)
        and time.time() - path.stat().st_ctime > SETTLED_S
    }
    if any(path.stat().st_size >= WORTH_KEEPING_BYTES for path in unread):
        with suppress(OSError):  # a hash that can't be kept is computed again next time
            notes.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            publish(notes, json.dumps(settled).encode())
    return [found[path] for path in paths]


def _mark(path: Path) -> str:
    """Return a text that changes whenever the file's content does. The ctime in it can't be set by a user."""
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(notes: Path) -> dict[str, str]:
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(notes.read_text("utf-8"))
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if isinstance(value, str)}
    return {}
