"""Reads tars in webdataset's layout: neighbouring members with the same name and different endings are one sample.

Invariants: nothing is written to disk; only members that can contain a caption are read, up to a size limit; the tar is
read once, from front to back. (The webdataset library reads every member whole, images too.)
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Self

from x2i_platform.errors import InputError
from x2i_platform.precompute.captions.json_values import records_of
from x2i_platform.precompute.captions.records import MAX_CHARS, Reading, Record, listed

KINDS = ("txt", "caption", "json")
"""Endings of members with captions, best first."""
MAX_NAME_BYTES = 64 * 1024
MAX_MEMBER_BYTES = 2**50

Sample = dict[str, bytes | None]
"""Content by ending; None for members of other kinds."""


class _Header(tarfile.TarInfo):
    """A stricter tar header: tarfile would take a damaged one for the end, and accept names of any length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"damaged or cut short: {error}") from None
        extra = (*(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.GNUTYPE_LONGNAME)
        if header.type in (*extra, tarfile.GNUTYPE_LONGLINK) and header.size > MAX_NAME_BYTES:
            raise tarfile.ReadError(f"a name of {header.size} bytes")
        return header


def read_tar(handle: io.BufferedReader, source: str, reading: Reading) -> Iterator[Record]:
    """Yield each sample's captions: its .txt or .caption, else a key of its .json. `json.key` asks for the .json."""
    try:
        with tarfile.open(fileobj=handle, mode="r|", tarinfo=_Header, ignore_zeros=True) as tar:
            for number, (key, sample) in enumerate(_samples(tar, reading.column), start=1):
                yield from _records(f"{source}/{key}", number, sample, reading.column)
    except tarfile.TarError as error:
        raise InputError(f"captions file '{source}' can't be read as a tar: {error}") from None


def _samples(tar: tarfile.TarFile, column: str | None) -> Iterator[tuple[str, Sample]]:
    """Group neighbouring members with the same key. A repeated ending begins a new sample."""
    current, sample = "", Sample()
    for key, ending, content in _members(tar, column):
        if sample and (key != current or ending in sample):
            yield current, sample
            sample = Sample()
        current, sample[ending] = key, content
    if sample:
        yield current, sample


def _members(tar: tarfile.TarFile, column: str | None) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield each file's key, ending and content."""
    for member in tar:
        if member.size > MAX_MEMBER_BYTES:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header in memory
        name = PurePosixPath(member.name.encode(errors="backslashreplace").decode())
        if member.isdir() or any(part.startswith((".", "_")) for part in name.parts if part != "."):
            continue
        stem, _, ending = name.name.lower().partition(".")
        wanted = (ending == column or ending.rpartition(".")[2] in KINDS) and member.size <= MAX_CHARS
        file = tar.extractfile(member) if wanted and member.isreg() else None
        yield str(name.with_name(name.name[: len(stem)] or "_")), ending, file.read() if file else None


def _records(place: str, number: int, sample: Sample, asked: str | None) -> Iterator[Record]:
    ending, column = _chosen(sample, asked)
    if ending is None:
        yield Record(place, number, None, f"no {asked or '.txt, .caption or .json'} among {listed(sample)}")
        return
    if (content := sample[ending]) is None:
        yield Record(place, number, None, f".{ending} is no plain file of at most {MAX_CHARS} bytes")
        return
    try:
        text = content.decode("utf-8-sig")
        value: Any = json.loads(text) if ending.endswith("json") else text
    except (ValueError, RecursionError) as error:
        yield Record(place, number, None, f".{ending} is not {'JSON' if ending.endswith('json') else 'UTF-8'}: {error}")
        return
    yield from records_of(place, number, value, column)


def _chosen(sample: Sample, column: str | None) -> tuple[str | None, str | None]:
    """Return the ending of the member with the caption, and the column below it."""
    if column is not None:
        parts = column.split(".")
        for count in range(len(parts), 0, -1):
            if (ending := ".".join(parts[:count]).lower()) in sample:
                return ending, ".".join(parts[count:]) or None
    kinds = ("json",) if column is not None else KINDS
    found = (ending for kind in kinds for ending in sample if ending.rpartition(".")[2] == kind)
    return next(found, None), column
