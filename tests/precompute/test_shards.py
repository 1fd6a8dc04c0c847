"""Every caption is planned once: however often it is read, whoever plans beside us, and whenever planning is killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.features.together import die, race, run_until_killed, then_die
from x2i_platform.errors import StoreError
from x2i_platform.features.files import Files
from x2i_platform.features.reader import read_samples
from x2i_platform.features.schema import SAMPLES, sample_id
from x2i_platform.features.store import FeatureStore, Fingerprint
from x2i_platform.precompute.captions import Record, read_captions
from x2i_platform.precompute.intake import Intake
from x2i_platform.precompute.shards import append_shards


def records(captions: Iterable[str], *, source: str = "c.txt") -> list[Record]:
    return [Record(source, line, caption) for line, caption in enumerate(captions, 1)]


def numbered(count: int, *, start: int = 0) -> list[str]:
    return [f"caption {number}" for number in range(start, start + count)]


def planned(store: FeatureStore) -> list[list[str]]:
    """Captions of every shard."""
    return [[row["caption"] for row in read_samples(store, commit)] for commit in store.commits([SAMPLES])]


def plan(store: FeatureStore, captions: Iterable[str], *, size: int = 4) -> Intake:
    return append_shards(store, records(captions), samples_per_shard=size)


def assert_accounted(intake: Intake) -> None:
    assert intake.lines == len(intake.samples) + intake.duplicates + len(intake.refused)


def test_captions_are_cut_into_shards_in_order(store: FeatureStore) -> None:
    intake = plan(store, numbered(10))
    assert planned(store) == [numbered(4), numbered(4, start=4), numbered(2, start=8)]
    assert (intake.lines, intake.new_samples, intake.duplicates, intake.refused) == (10, 10, 0, [])
    assert_accounted(intake)


def test_duplicates_within_and_across_files_are_stored_where_they_first_stood(
    store: FeatureStore, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\none\n\n two \nnul\0\n")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": "three"}\n{"text": 3}\n')
    intake = append_shards(store, read_captions(f"{tmp_path}/[ab].*"), samples_per_shard=2)
    assert planned(store) == [["one", "two"], ["three"]]
    assert (intake.lines, len(intake.samples), intake.duplicates, len(intake.refused)) == (8, 3, 3, 2)
    assert_accounted(intake)
    rows = [row for commit in store.commits([SAMPLES]) for row in read_samples(store, commit)]
    assert [(Path(row["source"]).name, row["line"]) for row in rows] == [("a.txt", 1), ("a.txt", 2), ("b.jsonl", 2)]
    assert {row["sample_id"] for row in rows} == {sample_id(caption) for caption in ("one", "two", "three")}


def test_refused_lines_are_written_with_their_reason_once(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'"good"\n""\n"caf\xe9"\n\n{"\\ud800": 1}\n')
    for _ in range(2):
        intake = append_shards(store, read_captions(str(path)), samples_per_shard=4)
        assert_accounted(intake)
    (file,) = (Path(store.files.url) / "quarantine").iterdir()
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(row["source"], row["line"]) for row in rows] == [(str(path), 2), (str(path), 3), (str(path), 5)]
    assert all(row["reason"] for row in rows)


def test_planning_again_plans_nothing_and_appending_makes_new_shards_only(store: FeatureStore) -> None:
    plan(store, numbered(6))
    before = store.commits([SAMPLES])
    again = plan(store, numbered(6))
    assert (again.new_samples, len(again.samples), again.lines) == (0, 6, 6)
    assert store.commits([SAMPLES]) == before
    more = plan(store, [*numbered(3, start=100), *numbered(6), *numbered(2, start=103)], size=3)
    assert (more.new_samples, len(more.samples)) == (5, 11)
    assert store.commits([SAMPLES])[:2] == before
    assert planned(store)[2:] == [numbered(3, start=100), numbered(2, start=103)]
    assert plan(store, []).lines == 0


def plan_and_die(url: str, count: int, after: int) -> None:
    def dying() -> Iterator[Record]:
        for number, record in enumerate(records(numbered(count))):
            if number == after:
                die()
            yield record

    append_shards(FeatureStore.open(url), dying(), samples_per_shard=4)


def plan_and_die_at_adoption(url: str, count: int, shard: int) -> None:
    adopt = Files.adopt

    def adopt_or_die(files: Files, scratch: Path, name: str) -> None:
        (then_die(adopt) if name.startswith(f"{SAMPLES}/{shard:06d}") else adopt)(files, scratch, name)

    Files.adopt = adopt_or_die  # type: ignore[assignment, method-assign]
    plan(FeatureStore.open(url), numbered(count))


@pytest.mark.parametrize(
    ("work", "when"), [(plan_and_die, 0), (plan_and_die, 5), (plan_and_die, 8), (plan_and_die_at_adoption, 1)]
)
def test_killed_in_the_middle_and_run_again_plans_the_same_shards(
    store: FeatureStore, tmp_path: Path, fingerprint: Fingerprint, work: Callable[..., Any], when: int
) -> None:
    whole = FeatureStore.create(str(tmp_path / "whole"), fingerprint=fingerprint)
    plan(whole, numbered(14))
    run_until_killed(work, store.files.url, 14, when)
    assert len(planned(store)) == (1 if work is plan_and_die_at_adoption else when // 4)
    intake = plan(store, numbered(14))
    assert len(intake.samples) == 14
    assert planned(store) == planned(whole)
    assert [commit.sha256 for commit in store.commits()] == [commit.sha256 for commit in whole.commits()]
    store.publish_manifest()
    assert len(list((Path(store.files.url) / SAMPLES).iterdir())) == 4


def test_who_loses_a_shard_to_another_planner_neither_loses_nor_repeats_a_caption(store: FeatureStore) -> None:
    other = FeatureStore.open(store.files.url)

    def interrupted() -> Iterator[Record]:
        ours = records(numbered(9))
        yield from ours[:3]
        plan(other, ["caption 1", "caption 7", *numbered(4, start=50)], size=3)
        yield from ours[3:]

    intake = append_shards(store, interrupted(), samples_per_shard=4)
    shards = planned(store)
    assert shards[:2] == [["caption 1", "caption 7", "caption 50"], numbered(3, start=51)]
    counts = Counter(caption for shard in shards for caption in shard)
    assert set(counts) == {*numbered(9), *numbered(4, start=50)}
    assert set(counts.values()) == {1}
    assert intake.new_samples == 7
    assert max(len(shard) for shard in shards) <= 4
    assert_accounted(intake)


def plan_own(me: int, url: str) -> int:
    captions = [*numbered(40, start=15 * me), *numbered(10)]
    return plan(FeatureStore.open(url), captions).new_samples


def test_processes_that_plan_overlapping_captions_at_once_plan_each_once(store: FeatureStore) -> None:
    race(plan_own, store.files.url, count=4)
    counts = Counter(caption for shard in planned(store) for caption in shard)
    assert set(counts) == {*numbered(40 + 15 * 3)}
    assert set(counts.values()) == {1}
    assert [commit.shard for commit in store.commits([SAMPLES])] == list(range(len(planned(store))))


def test_a_hole_in_the_plan_is_an_error_and_not_a_place_to_write(store: FeatureStore) -> None:
    plan(store, numbered(12))
    record = Path(store.files.url) / "commits/samples/000001.json"
    content = record.read_bytes()
    record.unlink()
    with pytest.raises(StoreError, match=r"lacks 'commits/samples/000001\.json'; restore it"):
        plan(store, numbered(3, start=50))
    record.write_bytes(content)
    assert plan(store, numbered(3, start=50)).new_samples == 3
    assert [caption for shard in planned(store) for caption in shard] == [*numbered(12), *numbered(3, start=50)]


def test_a_damaged_plan_is_refused_before_anything_is_added(store: FeatureStore) -> None:
    plan(store, numbered(8))
    file = Path(store.files.path(store.commits()[1].file))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="restore it from a copy"):
        plan(store, numbered(3, start=50))
    assert len(store.commits()) == 2


def test_only_captions_decide_the_plan_not_where_they_stand(store: FeatureStore) -> None:
    append_shards(store, records(["one", "two"], source="a.txt"), samples_per_shard=2)
    moved = append_shards(store, records(["two", "one"], source="b.txt"), samples_per_shard=1)
    assert (moved.new_samples, len(moved.samples)) == (0, 2)
