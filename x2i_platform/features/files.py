"""Files of one folder, on a local disk or behind any fsspec URL such as `s3://bucket/store`.

Invariant: a name under the folder holds either nothing or a whole file. Locally that is a temporary file, fsync and
rename; on an object store an object appears only when its upload is complete.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from x2i_platform.errors import StoreError

SCRATCH = ".tmp"
SCRATCH_LIFETIME_S = 24 * 3600
"""Scratch files older than this belong to no process that still runs."""


class Files:
    """Whole-file access to a folder. Names are relative, with `/` between parts."""

    def __init__(self, root: str) -> None:
        """Point at a folder, which needn't exist yet. Raises StoreError for a URL no installed filesystem serves."""
        try:
            # Listings must be fresh: another process may have committed since the last one.
            self.fs, self.root = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(f"can't open '{root}': {error}") from None
        self.url = root
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """Full path of a name, as the filesystem wants it."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether the name holds a file."""
        return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """Sorted names of the files directly in a folder; empty where there is no such folder."""
        try:
            found = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        leaves = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{leaf}" for leaf in leaves if leaf and leaf.endswith(suffix))

    def read(self, name: str) -> bytes:
        """Content of one file."""
        return bytes(self.fs.cat_file(self.path(name)))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Contents of several files, in order; object stores are asked concurrently."""
        if not names:
            return []
        paths = [self.path(name) for name in names]
        found: dict[str, bytes] = self.fs.cat(paths)
        return [found[path] for path in paths]

    def open(self, name: str) -> IO[bytes]:
        """A seekable reader of one file."""
        handle: IO[bytes] = self.fs.open(self.path(name), "rb")
        return handle

    def publish(self, name: str, data: bytes) -> None:
        """Write or replace a file atomically."""
        if not self.is_local:
            self.fs.pipe_file(self.path(name), data)
            return
        with self.scratch_file() as scratch:
            _write_synced(scratch, data)
            self._rename(scratch, name)

    def publish_new(self, name: str, data: bytes) -> bool:
        """Write a file atomically unless it exists; False if it does. Of several racing writers one gets True."""
        try:
            if self.is_local:
                with self.scratch_file() as scratch:
                    _write_synced(scratch, data)
                    target = self._parent_made(name)
                    os.link(scratch, target)
                    _sync_folder(target.parent)
            else:
                self.fs.pipe_file(self.path(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def adopt(self, scratch: Path, name: str) -> None:
        """Move a finished scratch file to its name."""
        if self.is_local:
            with scratch.open("rb+") as handle:
                os.fsync(handle.fileno())
            self._rename(scratch, name)
        else:
            self.fs.put_file(str(scratch), self.path(name))

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens if it is gone already."""
        if self.exists(name):
            self.fs.rm_file(self.path(name))

    @contextmanager
    def scratch_file(self, suffix: str = "") -> Iterator[Path]:
        """A fresh local path to write to, on the store's own disk if that is local; removed on exit if still there."""
        folder = Path(self.root) / SCRATCH if self.is_local else Path(tempfile.gettempdir()) / "x2i-platform"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{uuid.uuid4().hex}{suffix}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what killed processes left in the scratch folder."""
        folder = Path(self.root) / SCRATCH
        if not self.is_local or not folder.is_dir():
            return
        for path in folder.iterdir():
            if time.time() - path.stat().st_mtime > SCRATCH_LIFETIME_S:
                path.unlink(missing_ok=True)

    def _parent_made(self, name: str) -> Path:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _rename(self, scratch: Path, name: str) -> None:
        target = self._parent_made(name)
        shutil.move(scratch, target)
        _sync_folder(target.parent)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
