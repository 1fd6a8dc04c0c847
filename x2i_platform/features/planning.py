"""From records to planned shards: every caption gets an id, its duplicates fall away, the rest is cut into shards.

Invariant: the plan is table `samples` of the store itself, appended to and never changed; the same records read twice
plan the same shards, and a run that was killed while planning goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from x2i_platform.captions import Record
from x2i_platform.features.reader import read_samples
from x2i_platform.features.schema import SAMPLES, ids_digest, sample_id
from x2i_platform.features.store import FeatureStore
from x2i_platform.features.writer import Row, open_shard, publish_quarantine


@dataclass
class Intake:
    """What became of the records read: `lines == len(samples) + duplicates + len(refused)`."""

    lines: int = 0
    duplicates: int = 0
    refused: list[Row] = field(default_factory=list)
    samples: set[str] = field(default_factory=set)
    """Ids of the distinct captions read, whether they are new to the store or known."""
    new_samples: int = 0


def unique_samples(records: Iterable[Record], *, intake: Intake) -> Iterator[Row]:
    """Rows for table `samples`, each caption once; counts and bad records go to `intake`."""
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


def plan_shards(store: FeatureStore, records: Iterable[Record], *, samples_per_shard: int) -> Intake:
    """Append the captions the store doesn't know yet as new shards of table `samples`, and quarantine bad records."""
    intake = Intake()
    planned = store.commits([SAMPLES])
    known = {row["sample_id"] for commit in planned for row in read_samples(store, commit)}
    shard = len(planned)
    waiting: list[Row] = []
    for row in unique_samples(records, intake=intake):
        if row["sample_id"] in known:
            continue
        waiting.append(row)
        if len(waiting) == samples_per_shard:
            _commit_samples(store, shard, waiting)
            intake.new_samples += len(waiting)
            shard, waiting = shard + 1, []
    if waiting:
        _commit_samples(store, shard, waiting)
        intake.new_samples += len(waiting)
    if intake.refused:
        places = [f"{row['source']}:{row['line']}" for row in intake.refused]
        publish_quarantine(store.files, intake.refused, name=f"captions-{ids_digest(places)[:12]}")
    return intake


def _commit_samples(store: FeatureStore, shard: int, rows: list[dict[str, Any]]) -> None:
    with open_shard(store, table=SAMPLES, shard=shard) as writer:
        for row in rows:
            writer.add(row)
