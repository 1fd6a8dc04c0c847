"""Which files a path names: a file or folder of exactly that name, otherwise the matches of the pattern.

Invariants: hidden and scratch files (`.x`, `_x`) below the named path are never data; files that are not read are
counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from glob import escape, has_magic
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from x2i_platform.errors import InputError, raising
from x2i_platform.precompute.captions.records import holds_surrogate
from x2i_platform.streams import UNREACHABLE

PICTURES = {
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jxl"),
    *(".mp4", ".webm", ".mov", ".mkv", ".avi"),
}
"""Endings of images and videos."""


@dataclass(frozen=True)
class Found:
    """The files of a path."""

    files: tuple[str, ...]
    """Files to read, sorted."""
    not_read: dict[str, int] = field(default_factory=dict)
    """Number of other files, by ending."""
    with_picture: frozenset[str] = frozenset()
    """Text files next to an image or a video of the same name."""

    def left_out(self) -> str:
        """A short summary of the files that are not read; empty if there are none."""
        total = sum(self.not_read.values())
        endings = ", ".join(f"{ending} ({count})" for ending, count in self.not_read.items())
        return f"{total} file{'s' if total > 1 else ''} not read: {endings}" if total else ""


def find_files(path: str, *, readable: Collection[str]) -> Found:
    """The files of a path, divided by whether their ending can be read. Raises InputError if there are none."""
    if not path.strip():
        raise InputError("--captions is empty; name a file, a folder or a pattern")
    with raising(InputError, f"can't read captions '{path}'", UNREACHABLE):
        # A file that appeared since this process last looked must not be missed.
        fs, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
        names = sorted(fs.unstrip_protocol(name).removeprefix("file://") for name in _names(fs, root))
    if not names:
        raise InputError(f"captions '{path}' not found: no such file, folder or match")
    files = tuple(name for name in names if ending_of(name) in readable)
    others = Counter(
        PurePosixPath(name).suffix.lower() or "no ending" for name in names if ending_of(name) not in readable
    )
    found = Found(files, dict(sorted(others.items())))
    if not files:
        raise InputError(
            f"captions '{path}': no file ends in {', '.join(readable)}, with or without .gz; {found.left_out()}"
        )
    unnameable = next((name for name in files if holds_surrogate(name)), None)
    if unnameable:
        raise InputError(f"captions file {unnameable!r}: its name is not UTF-8; rename it")
    with raising(InputError, f"can't read captions '{path}'", UNREACHABLE):
        return Found(files, found.not_read, _with_picture(fs, root, files))


def ending_of(name: str) -> str:
    """A file's ending in lower case, without that of the compression."""
    name = name.lower()
    return ".tar" if name.endswith(".tgz") else PurePosixPath(name.removesuffix(".gz")).suffix


def _names(fs: Any, root: str) -> list[str]:
    """Files below an existing path, otherwise below each match of the pattern."""
    if fs.isdir(root):
        return _below(fs, root, hidden="._")
    if fs.exists(root):
        return [root]
    literal, pattern = _split(fs, root)
    if not pattern:
        return []
    # a user who writes the dot means hidden files
    hidden = "".join(mark for mark in "._" if not any(part.startswith(mark) for part in pattern.split("/")))
    matches = fs.glob(f"{escape(literal)}/{pattern}" if literal else pattern, detail=True)
    names = set()
    for name, info in matches.items():
        if not _is_hidden(name, literal, hidden):
            names |= set(_below(fs, name, hidden)) if info["type"] == "directory" else {name}
    return sorted(names)


def _split(fs: Any, root: str) -> tuple[str, str]:
    """The part of a path that exists literally, and the pattern after it; no pattern if there is none."""
    parts = root.split("/")
    for count, part in enumerate(parts):
        if has_magic(part) and not fs.exists("/".join(parts[: count + 1])):
            return "/".join(parts[:count]), "/".join(parts[count:])
    return root, ""


def _below(fs: Any, folder: str, hidden: str) -> list[str]:
    found = fs.find(folder, detail=True)  # pipes, sockets and links that lead nowhere are no files
    plain = (str(name) for name, info in found.items() if info["type"] == "file")
    return [name for name in plain if not _is_hidden(name, folder, hidden)]


def _is_hidden(name: str, root: str, hidden: str) -> bool:
    below = name.removeprefix(root).strip("/").split("/")
    return any(part.startswith(tuple(hidden)) for part in below)


def _with_picture(fs: Any, root: str, files: Iterable[str]) -> frozenset[str]:
    """Text files next to an image of the same name. For a single file that is not local, its folder is not listed."""
    texts = [name for name in files if ending_of(name) == ".txt"]
    if not isinstance(fs, LocalFileSystem) and fs.exists(root) and not fs.isdir(root):
        return frozenset()
    pictures: dict[str, set[str]] = {}
    for folder in {name.rpartition("/")[0] for name in texts}:
        beside: list[str] = []
        with suppress(PermissionError):  # a file may be read whose folder may not
            beside = [str(each).rpartition("/")[2] for each in fs.ls(folder, detail=False)]
        paths = [PurePosixPath(each) for each in beside if PurePosixPath(each.lower()).suffix in PICTURES]
        pictures[folder] = {each.stem for each in paths} | {each.name for each in paths}
    return frozenset(name for name in texts if _stem(name) in pictures[name.rpartition("/")[0]])


def _stem(name: str) -> str:
    leaf = name.rpartition("/")[2]
    return PurePosixPath(leaf[:-3] if leaf.lower().endswith(".gz") else leaf).stem
