"""Turns records into samples: gives each caption an id, drops duplicates and counts the outcomes.

Imports no torch, so captions can be counted for a plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from x2i_platform.errors import InputError
from x2i_platform.features.schema import Row, sample_id
from x2i_platform.precompute.captions import Record

SHOWN_REASONS = 3


@dataclass
class Intake:
    """Counts of the records read: `lines == len(samples) + duplicates + len(refused)`."""

    lines: int = 0
    duplicates: int = 0
    refused: list[Row] = field(default_factory=list)
    samples: set[str] = field(default_factory=set)
    """Ids of the distinct captions read, whether or not the store had them."""
    new_samples: int = 0
    unfit: list[Row] = field(default_factory=list)
    """Captions that are known to fail in a stage, which will quarantine them."""

    def require_captions(self, path: str) -> None:
        """Raise InputError, with the first reasons, if there is no caption."""
        if not self.samples:
            reasons = f": {self.first_reasons()}" if self.refused else ""
            raise InputError(f"captions '{path}' hold no caption in {self.lines} lines{reasons}")

    def first_reasons(self) -> str:
        """Return the first distinct reasons why records were refused, each with the place of its first record."""
        first: dict[str, Row] = {}
        for row in (*self.refused, *self.unfit):
            first.setdefault(row["reason"], row)
        shown = itertools.islice(first.values(), SHOWN_REASONS)
        return "; ".join(f"{row['source']}:{row['line']}: {row['reason']}" for row in shown)


def unique_samples(records: Iterable[Record], *, intake: Intake) -> Iterator[Row]:
    """Yield a row of table `samples` for each distinct caption. Counts and bad records go to `intake`."""
    for record in records:
        intake.lines += 1
        if record.caption is None:
            intake.refused.append({"source": record.source, "line": record.line, "reason": record.reason})
            continue
        row = {"sample_id": sample_id(record.caption), "caption": record.caption}
        if row["sample_id"] in intake.samples:
            intake.duplicates += 1
            continue
        intake.samples.add(row["sample_id"])
        yield {**row, "source": record.source, "line": record.line}


@dataclass(frozen=True)
class Counted:
    """Number and mean length of distinct captions."""

    rows: int
    mean_chars: float


def count_captions(
    records: Iterable[Record], *, path: str, fault: Callable[[Row], str | None] | None = None
) -> tuple[Intake, Counted]:
    """Count the distinct captions, the other lines, and the captions for which `fault` returns a reason.

    Raises InputError if there is no caption.
    """
    intake = Intake()
    chars = []
    for row in unique_samples(records, intake=intake):
        chars.append(len(row["caption"]))
        if fault and (reason := fault(row)):
            intake.unfit.append({**row, "reason": reason})
    intake.require_captions(path)
    return intake, Counted(len(chars), sum(chars) / len(chars))
