"""Reads and writes files of one folder, on a local disk or behind any fsspec URL such as `s3://bucket/store`.

Invariants: a name holds either nothing or a whole file (locally by a temporary file, fsync and rename; on an object
store an object appears only when its upload is complete); errors of disk and network are StoreErrors that name the
file; if the scratch folder is a link, nothing is written or deleted behind it.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.local import LocalFileSystem

from x2i_platform.errors import StoreError, raising
from x2i_platform.files import settle, sync

OUTSIDE = (OSError, EOFError, BotoCoreError, ClientError)
"""Errors that a disk or an object store raises."""
SCRATCH = ".tmp"
SCRATCH_LIFETIME_S = 24 * 3600
"""Scratch files older than this are taken to be left over from killed processes."""


class Files:
    """Access to whole files of a folder. Names are relative, with `/` between parts."""

    def __init__(self, root: str) -> None:
        """Take a folder, which needn't exist yet. Raises StoreError for a URL that no installed filesystem serves."""
        try:
            # Listings must be fresh: another process may have committed since the last one.
            self.fs, self.root = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StoreError(f"can't open '{root}': {error}") from None
        self.url = root
        self.is_local = isinstance(self.fs, LocalFileSystem)

    @property
    def address(self) -> str:
        """The URL or the absolute path, for processes with another working folder, such as a cluster's."""
        return str(self.root) if self.is_local else self.url

    def path(self, name: str) -> str:
        """Return the full path of a name for the filesystem."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Return whether the name holds a file."""
        with raising(StoreError, f"can't look for '{self.path(name)}'", OUTSIDE):
            return bool(self.fs.exists(self.path(name)))

    def names(self, folder: str, *, suffix: str = "") -> list[str]:
        """Return the sorted names of the files directly in a folder; empty if there is no such folder."""
        with raising(StoreError, f"can't list '{self.path(folder)}'", OUTSIDE):
            try:
                found = self.fs.ls(self.path(folder), detail=False)
            except FileNotFoundError:
                return []
        leaves = (str(path).rsplit("/", 1)[-1] for path in found)
        return sorted(f"{folder}/{leaf}" for leaf in leaves if leaf.endswith(suffix) and leaf[:1] not in ("", "."))

    def read(self, name: str) -> bytes:
        """Read one file."""
        with raising(StoreError, f"can't read '{self.path(name)}'", OUTSIDE):
            return bytes(self.fs.cat_file(self.path(name)))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """Read several files, in order; from object stores concurrently."""
        if not names:
            return []
        paths = [self.path(name) for name in names]
        with raising(StoreError, f"can't read '{paths[0]}' … '{paths[-1]}'", OUTSIDE):
            # Not `cat`, which reads `[` or `*` in the folder's name as a pattern.
            return list(self.fs.cat_ranges(paths, None, None, on_error="raise"))

    def publish(self, name: str, data: bytes) -> None:
        """Write or replace a file atomically."""
        with raising(StoreError, f"can't write '{self.path(name)}'", OUTSIDE):
            if not self.is_local:
                self.fs.pipe_file(self.path(name), data)
                return
            with self.scratch_file() as scratch:
                scratch.write_bytes(data)
                settle(scratch, Path(self.path(name)))

    def publish_new(self, name: str, data: bytes) -> bool:
        """Write a file atomically unless it exists. Returns True for the one writer that created it."""
        with raising(StoreError, f"can't write '{self.path(name)}'", OUTSIDE):
            return self._link_new(name, data) if self.is_local else self._put_new(name, data)

    def adopt(self, scratch: Path, name: str) -> None:
        """Move or upload a finished scratch file to its name."""
        with raising(StoreError, f"can't write '{self.path(name)}'", OUTSIDE):
            if not self.is_local:
                self.fs.put_file(str(scratch), self.path(name))
                return
            settle(scratch, Path(self.path(name)))

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        with raising(StoreError, f"can't remove '{self.path(name)}'", OUTSIDE), suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    @contextmanager
    def scratch_file(self, suffix: str = "") -> Iterator[Path]:
        """Yield a new local path, on the store's disk if that is local. A file there is removed on exit."""
        path = self._scratch_folder / f"{uuid.uuid4().hex}{suffix}"
        with raising(StoreError, f"can't make '{path.parent}'", OUTSIDE):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o777 if self.is_local else 0o700)
            _require_own(path.parent, private=not self.is_local)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Delete what killed processes left in the scratch folder. Raises StoreError if that is a link."""
        folder = self._scratch_folder
        if not os.path.lexists(folder):
            return
        with raising(StoreError, f"can't sweep '{folder}'", OUTSIDE):
            _require_own(folder, private=not self.is_local)
            # Delete through a descriptor: replacing the folder by a link now has no effect.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                _delete_old(descriptor)
            finally:
                os.close(descriptor)

    @property
    def _scratch_folder(self) -> Path:
        if self.is_local:
            return Path(self.root) / SCRATCH
        return Path(tempfile.gettempdir()) / f"x2i-platform-{os.getuid()}"

    def _link_new(self, name: str, data: bytes) -> bool:
        """Create the file by a hard link, which is atomic and fails if the name is taken; a rename would not."""
        with self.scratch_file() as scratch:
            scratch.write_bytes(data)
            sync(scratch)
            target = Path(self.path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(scratch, target)
            except FileExistsError:
                return False
            sync(target.parent)
        return True

    def _put_new(self, name: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(self.path(name), data, mode="create")
        except OSError:
            # Stores report an existing object in several ways, and only some become FileExistsError.
            if not self.exists(name):
                raise
            return False
        return True


def _require_own(folder: Path, *, private: bool) -> None:
    """Refuse a link, and if the parent is open to all users, also a folder of another user."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"scratch folder '{folder}' is a link or a file; remove it")
    if private and found.st_uid != os.getuid():
        raise StoreError(f"scratch folder '{folder}' belongs to another user; remove it, or set TMPDIR")
    if private and stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def _delete_old(folder: int) -> None:
    """Delete the plain files of an open folder that are older than `SCRATCH_LIFETIME_S`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # its writer may have just finished
                age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if entry.is_file(follow_symlinks=False) and age_s > SCRATCH_LIFETIME_S:
                    os.unlink(entry.name, dir_fd=folder)
