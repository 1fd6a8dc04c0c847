"""Records are read once, and gone through as often as wanted."""

from __future__ import annotations

from collections.abc import Iterator

from x2i_platform.precompute.captions import KeptRecords, Record

RECORDS = [
    Record("a.txt", 1, "a red circle"),
    Record("a.txt", 2, None, "empty"),
    Record("b.txt", 1, "Grüße, 你好 \ud800"),
]


def test_every_round_gives_the_same_and_the_source_is_read_once() -> None:
    reads: list[int] = []

    def source() -> Iterator[Record]:
        for record in RECORDS:
            reads.append(record.line)
            yield record

    with KeptRecords(source()) as kept:
        assert [list(kept) for _ in range(3)] == [RECORDS] * 3
    assert reads == [1, 2, 1]


def test_no_records_are_none_in_every_round() -> None:
    with KeptRecords([]) as kept:
        assert [list(kept), list(kept)] == [[], []]
