"""Files that clients upload, and files that batches leave for them. Free of Ray and of HTTP.

    FOLDER/file-….json   the record
    FOLDER/file-….data   the content

Invariants: a file is there if its record is, and then its content is whole; a file is seen by nobody but its owner;
a client's file name is a word in a record and never a path; the store never holds more than it was allowed.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from x2i_platform.files import publish, settle

MB = 1024**2
MAX_FILE_BYTES = 512 * MB
"""As OpenAI's."""
MAX_TOTAL_BYTES = 20 * 1024 * MB
MAX_NAME_CHARS = 255
LEFT_OVER_S = 3600.0
"""What lies in the folder without a record for this long was left by a process that died."""
ID = re.compile(r"file-[0-9a-f]{24}")
Purpose = Literal["batch", "batch_output"]
log = logging.getLogger(__name__)


class TooLargeError(Exception):
    """A file, or all of them, would be larger than allowed. The message is for the client."""


@dataclass(frozen=True)
class StoredFile:
    """The record of a file."""

    id: str
    owner: str
    filename: str
    purpose: Purpose
    bytes: int
    created_at: int

    def body(self) -> dict[str, Any]:
        """OpenAI's file object."""
        shown = asdict(self)
        del shown["owner"]
        return {**shown, "object": "file", "status": "processed", "expires_at": None}


class FileStore:
    """The files of a service. Its methods may be called by several threads."""

    def __init__(
        self, folder: Path, *, max_file_bytes: int = MAX_FILE_BYTES, max_total_bytes: int = MAX_TOTAL_BYTES
    ) -> None:
        """Read the records of a folder, which is made if it is missing. Raises OSError."""
        self.folder, self.max_file_bytes, self.max_total_bytes = folder, max_file_bytes, max_total_bytes
        folder.mkdir(parents=True, exist_ok=True)
        found = [record for record in map(_read, folder.glob("file-*.json")) if record]
        self._files = {each.id: each for each in sorted(found, key=lambda each: (each.created_at, each.id))}
        self._used, self._lock = sum(each.bytes for each in found), threading.Lock()
        self._sweep()

    @contextmanager
    def incoming(self) -> Iterator[Upload]:
        """A content that is on its way. It is forgotten when the block ends, unless `keep` was called."""
        path = self.folder / f".{secrets.token_hex(12)}.part"
        with path.open("wb") as handle:
            upload = Upload(self, path, handle)
            try:
                yield upload
            finally:
                if not upload.kept:
                    self._release(upload.bytes)
                    path.unlink(missing_ok=True)

    def keep(self, upload: Upload, *, filename: str, purpose: Purpose, owner: str) -> StoredFile:
        """Make a file of a content that has arrived. It is on disk when this returns. Raises OSError."""
        upload.handle.flush()
        record = self._record(new_id(), upload.bytes, filename=filename, purpose=purpose, owner=owner)
        settle(upload.path, self.path(record))
        upload.kept = True
        return self._add(record)

    def adopt(self, path: Path, *, file_id: str, filename: str, owner: str) -> StoredFile:
        """Take over a finished file of the same disk as a batch's output, whatever its size.

        Doing it again with the same id, after a restart, changes nothing. Raises OSError.
        """
        if file_id in self._files:
            return self._files[file_id]
        content = self.folder / f"{file_id}.data"
        if path.exists():
            settle(path, content)
        record = self._record(file_id, content.stat().st_size, filename=filename, purpose="batch_output", owner=owner)
        with self._lock:
            self._used += record.bytes
        return self._add(record)

    def get(self, file_id: str, *, owner: str) -> StoredFile | None:
        """An owner's file."""
        found = self._files.get(file_id)
        return found if found and found.owner == owner else None

    def list(self, *, owner: str, purpose: str | None = None) -> list[StoredFile]:
        """An owner's files, the oldest first."""
        mine = [each for each in list(self._files.values()) if each.owner == owner]
        return [each for each in mine if purpose in (None, each.purpose)]

    def path(self, record: StoredFile) -> Path:
        """Where a file's content lies."""
        return self.folder / f"{record.id}.data"

    def delete(self, record: StoredFile) -> None:
        """Forget a file. Raises OSError."""
        if self._files.pop(record.id, None):
            self._release(record.bytes)
        (self.folder / f"{record.id}.json").unlink(missing_ok=True)
        self.path(record).unlink(missing_ok=True)

    def reserve(self, upload: Upload, size: int) -> None:
        """Make room for more of a content. Raises TooLargeError."""
        if upload.bytes + size > self.max_file_bytes:
            raise TooLargeError(f"the file is larger than {self.max_file_bytes:,} bytes")
        with self._lock:
            if self._used + size > self.max_total_bytes:
                raise TooLargeError(f"all files may have {self.max_total_bytes:,} bytes together; delete some")
            self._used += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._used -= size

    def _record(self, file_id: str, size: int, *, filename: str, purpose: Purpose, owner: str) -> StoredFile:
        name = filename.replace("\\", "/").rsplit("/", 1)[-1]
        name = "".join(each for each in name if each.isprintable())[:MAX_NAME_CHARS] or "file"
        return StoredFile(file_id, owner, name, purpose, size, int(time.time()))

    def _add(self, record: StoredFile) -> StoredFile:
        publish(self.folder / f"{record.id}.json", json.dumps(asdict(record)).encode(), durable=True)
        self._files[record.id] = record
        return record

    def _sweep(self) -> None:
        """Delete what processes that died left without a record."""
        for path in [*self.folder.glob("*.data"), *self.folder.glob(".*.part")]:
            if path.stem not in self._files and time.time() - path.stat().st_mtime > LEFT_OVER_S:
                path.unlink(missing_ok=True)


class Upload:
    """A content that is on its way to a store."""

    def __init__(self, store: FileStore, path: Path, handle: BinaryIO) -> None:
        self.path, self.handle = path, handle
        self.bytes, self.kept = 0, False
        self._store = store

    def write(self, data: bytes) -> None:
        """Append. Raises TooLargeError, OSError."""
        self._store.reserve(self, len(data))
        self.bytes += len(data)
        self.handle.write(data)


def new_id() -> str:
    """An id that nobody guesses."""
    return f"file-{secrets.token_hex(12)}"


def _read(path: Path) -> StoredFile | None:
    """A record; None for a file that isn't one, which is left alone."""
    try:
        record = StoredFile(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        log.warning("%s is no record of a file", path.name)
        return None
    return record if ID.fullmatch(record.id) and path.stem == record.id else None
