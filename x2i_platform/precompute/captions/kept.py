"""Keeps records on disk, so that they are read once but used twice: counted first, then planned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import Self

from x2i_platform.precompute.captions.records import Record


class KeptRecords:
    """Yields records and keeps them in an unnamed temporary file, from which later iterations read them.

    Memory holds one record. The first iteration must be complete before another one begins.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = records
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `__exit__`
        self._kept: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Record]:
        if self._kept is not None:
            self._file.seek(0)
            for _ in range(self._kept):
                yield Record(*json.loads(self._file.readline()))
            return
        count = 0
        for record in self._records:
            self._file.write(json.dumps(astuple(record)).encode() + b"\n")
            count += 1
            yield record
        self._kept = count
