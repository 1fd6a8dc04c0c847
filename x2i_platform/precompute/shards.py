"""Captions that a store doesn't know yet are cut into new shards of table `samples`.

Invariants: table `samples` is only appended to, never changed; reading the same records twice gives the same shards,
and a run that was killed here goes on where it stopped. No id is stored twice, even if several processes add captions
at once: shards are appended in order, and a process that loses a shard's number to another one reads that shard before
it goes on.
"""

from __future__ import annotations

from collections.abc import Iterable

from x2i_platform.errors import StoreError
from x2i_platform.features.reader import read_samples
from x2i_platform.features.schema import SAMPLES, Row, ids_digest
from x2i_platform.features.store import FeatureStore, record_name
from x2i_platform.features.writer import open_shard, publish_quarantine
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.intake import Intake, unique_samples


def append_shards(store: FeatureStore, records: Iterable[Record], *, samples_per_shard: int) -> Intake:
    """Append the captions that the store doesn't know as new shards of table `samples`, and quarantine bad records.

    Raises StoreError if the table so far is damaged.
    """
    intake = Intake()
    table = _Samples(store)
    for row in unique_samples(records, intake=intake):
        table.add(row)
        while len(table.waiting) >= samples_per_shard:
            table.commit()
    while table.waiting:
        table.commit()
    intake.new_samples = table.num_added
    if intake.refused:
        places = [f"{row['source']}:{row['line']}" for row in intake.refused]
        publish_quarantine(store.files, intake.refused, name=f"captions-{ids_digest(places)[:12]}")
    return intake


class _Samples:
    """The ids in table `samples`, and the rows that wait for the next shard."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        planned = store.commits([SAMPLES])
        for shard, commit in enumerate(planned):
            if commit.shard != shard:
                # The next number would be taken, and its rows would be lost.
                raise StoreError(f"store '{store.files.url}' lacks '{record_name(SAMPLES, shard)}'; restore it")
        beyond = {record_name(SAMPLES, int(name[-11:-5])) for name in store.record_names()}
        if lost := sorted(beyond - {commit.record for commit in planned}):
            # Other tables hold that shard: another plan of it would give their rows to other captions.
            raise StoreError(f"store '{store.files.url}' lacks '{lost[0]}'; restore it")
        self.known = {row["sample_id"] for commit in planned for row in read_samples(store, commit)}
        self.next_shard = len(planned)
        self.waiting: list[Row] = []
        self.num_added = 0

    def add(self, row: Row) -> None:
        """Add a row to those that wait, unless the store holds it."""
        if row["sample_id"] not in self.known:
            self.waiting.append(row)

    def commit(self) -> None:
        """Write the waiting rows as the next shard. If another process has written it, rows it lacks keep waiting."""
        with open_shard(self.store, table=SAMPLES, shard=self.next_shard) as writer:
            for row in self.waiting:
                writer.add(row)
        committed = self.store.commit_of(SAMPLES, self.next_shard)
        assert committed is not None, "open_shard ends with a commit, ours or another's"
        self.next_shard += 1
        ids = [row["sample_id"] for row in self.waiting]
        if committed.ids_digest == ids_digest(ids):
            self.num_added += len(ids)
            theirs = set(ids)
        else:
            theirs = {row["sample_id"] for row in read_samples(self.store, committed)}
        self.known |= theirs
        self.waiting = [row for row in self.waiting if row["sample_id"] not in theirs]
