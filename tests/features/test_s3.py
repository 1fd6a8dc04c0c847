"""The same promises on a real S3 server: new names are exclusive, shards commit once, captions are read whole."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from tests.features.made_rows import write_shard, write_tables
from tests.features.test_files import claim
from tests.features.together import meet, race, run_until_killed, then_die
from x2i_platform.errors import InputError, StoreError
from x2i_platform.features.files import Files
from x2i_platform.features.reader import ShardReader, read_samples
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, sample_id
from x2i_platform.features.store import FeatureStore, Fingerprint
from x2i_platform.precompute.captions import Record, read_captions
from x2i_platform.precompute.shards import append_shards

CAPTIONS = ["a red circle", "two", "three small blue triangles"]
AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@pytest.fixture
def s3_store(s3_bucket: str, fingerprint: Fingerprint) -> FeatureStore:
    return FeatureStore.create(f"{s3_bucket}/some/store", fingerprint=fingerprint)


def environment() -> dict[str, str]:
    """What a process that was forked by a server of an earlier day must be told."""
    return {name: os.environ[name] for name in AWS}


def objects(store: FeatureStore) -> list[str]:
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    root = store.files.root
    return sorted(name.removeprefix(f"{root}/") for name in fs.find(root))


def test_whole_files_by_name(s3_bucket: str) -> None:
    files = Files(f"{s3_bucket}/run [1]/store")
    assert files.names("commits") == []
    assert not files.exists("commits/1.json")
    for number in (2, 1, 3):
        assert files.publish_new(f"commits/{number}.json", b"%d" % number)
    assert not files.publish_new("commits/1.json", b"again")
    names = files.names("commits", suffix=".json")
    assert names == ["commits/1.json", "commits/2.json", "commits/3.json"]
    assert files.read_many(names[::-1]) == [b"3", b"2", b"1"]
    for content in (b"first", b"second"):
        files.publish("manifest.json", content)
        assert files.read("manifest.json") == content
        with files.scratch_file() as scratch:
            scratch.write_bytes(content)
            files.adopt(scratch, "text/000000.parquet")
        assert files.read("text/000000.parquet") == content
        assert not scratch.exists()
    files.remove("commits/1.json")
    files.remove("commits/1.json")
    assert files.names("commits") == names[1:]
    with pytest.raises(StoreError, match=r"can't read '.*commits/1\.json'"):
        files.read("commits/1.json")


def claim_there(me: int, variables: dict[str, str], root: str, names: int) -> list[int]:
    os.environ.update(variables)
    return claim(me, root, names)


def test_of_racing_processes_exactly_one_creates_a_name(s3_bucket: str) -> None:
    files = Files(f"{s3_bucket}/store")
    won = race(claim_there, environment(), files.url, 8, count=3)
    assert sorted(number for mine in won for number in mine) == list(range(8))
    assert sum(bool(mine) for mine in won) > 1
    for me, mine in enumerate(won):
        for number in mine:
            assert files.read(f"commits/{number}.json") == f"{me} ".encode() * 20_000


def commit_own(me: int, variables: dict[str, str], url: str, shards: int) -> None:
    os.environ.update(variables)
    store = FeatureStore.open(url)
    for shard in range(shards):
        meet()
        write_shard(store, SAMPLES, shard, [f"shard {shard} of {me}, {number}" for number in range(me + 1)])


def test_of_racing_processes_one_commits_each_shard_and_the_others_objects_go(s3_store: FeatureStore) -> None:
    race(commit_own, environment(), s3_store.files.url, 4, count=3)
    commits = s3_store.commits([SAMPLES])
    assert [commit.shard for commit in commits] == list(range(4))
    for commit in commits:
        owners = {row["caption"].partition(",")[0] for row in read_samples(s3_store, commit)}
        assert owners == {f"shard {commit.shard} of {commit.rows - 1}"}
    assert objects(s3_store) == sorted(
        ["store.json", *(commit.record for commit in commits), *(commit.file for commit in commits)]
    )


def write_and_die(variables: dict[str, str], url: str) -> None:
    os.environ.update(variables)
    store = FeatureStore.open(url)
    Files.adopt = then_die(Files.adopt)  # type: ignore[method-assign]
    write_shard(store, MLLM, 0, ["a red circle of another run"])


def test_a_writer_killed_before_its_commit_leaves_no_row(s3_store: FeatureStore) -> None:
    run_until_killed(write_and_die, environment(), s3_store.files.url)
    assert s3_store.commits() == []
    assert len(s3_store.files.names(MLLM)) == 1
    write_tables(s3_store, 0, CAPTIONS)
    manifest = s3_store.publish_manifest()
    assert s3_store.files.names(MLLM) == [manifest.of(MLLM)[0].file]
    assert manifest.complete_shards() == [0]


def test_a_store_is_written_and_read_and_damage_is_noticed(s3_store: FeatureStore, fingerprint: Fingerprint) -> None:
    write_tables(s3_store, 0, CAPTIONS)
    store = FeatureStore.open(s3_store.files.url)
    mllm, targets = store.commit_of(MLLM, 0), store.commit_of(TARGETS, 0)
    assert mllm
    assert targets
    sample = ShardReader(store, mllm=mllm, targets=targets).sample(sample_id("two"))
    assert sample.states_CSH.shape == (3, 1, 8)
    assert FeatureStore.create(store.files.url, fingerprint=fingerprint).manifest() == store.manifest()
    with pytest.raises(StoreError, match="'a' in the store, 'z' asked for"):
        FeatureStore.create(store.files.url, fingerprint={**fingerprint, "text": {"teacher": "z"}})
    store.files.publish(mllm.file, store.files.read(mllm.file)[:-5])
    with pytest.raises(StoreError, match=rf"{mllm.file}.* are not the {mllm.num_bytes} that were committed"):
        ShardReader(store, mllm=mllm, targets=targets)
    store.files.remove(mllm.file)
    with pytest.raises(StoreError, match=rf"{mllm.file}': it is gone"):
        ShardReader(store, mllm=mllm, targets=targets)


def test_captions_in_a_bucket_are_read_like_local_ones(s3_bucket: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["seven", "eight"]}), tmp_path / "d.parquet")
    content = {
        "a.txt": b"\xef\xbb\xbfone\n\ntw\xffo\nthree",
        "b.txt.gz": gzip.compress(b"four\nfive\n"),
        "c.csv": b'id,text\n1,"six,\nsix"\n',
        "d.parquet": (tmp_path / "d.parquet").read_bytes(),
        "e.tsv": b'text\tid\n"nine\t1\n',
        "f.jsonl": b'{"text": "ten"}\n',
        "notes.md": b"no captions",
    }
    files = Files(f"{s3_bucket}/captions")
    for name, data in content.items():
        files.publish(name, data)
        local = tmp_path / "local" / name
        local.parent.mkdir(exist_ok=True)
        local.write_bytes(data)

    def read(path: str) -> list[tuple[int, str | None, str | None]]:
        return [(record.line, record.caption, record.reason) for record in read_captions(path)]

    found = read(f"{s3_bucket}/captions")
    assert found == read(str(tmp_path / "local"))
    assert [caption for _, caption, _ in found if caption] == [
        *("one", "three", "four", "five", "six, six", "seven", "eight", '"nine', "ten")
    ]
    assert next(read_captions(f"{s3_bucket}/captions/a.txt")) == Record(f"{s3_bucket}/captions/a.txt", 1, "one")
    assert len(read(f"{s3_bucket}/captions/*.txt*")) == 5
    files.publish("g.txt", b"appeared since\n")
    assert len(read(f"{s3_bucket}/captions")) == len(found) + 1
    with pytest.raises(InputError, match="not found"):
        read(f"{s3_bucket}/captions/no.txt")
    with pytest.raises(InputError, match="not found"):
        read("s3://no-such-bucket/captions.txt")
    files.publish("h.txt.gz", gzip.compress(bytes(100_000))[:-20])
    with pytest.raises(InputError, match=r"h\.txt\.gz' can't be read"):
        read(f"{s3_bucket}/captions")


def test_planning_in_a_bucket_goes_on_where_it_stopped(s3_store: FeatureStore) -> None:
    def plan(captions: list[str]) -> int:
        records = [Record("c.txt", line, caption) for line, caption in enumerate(captions, 1)]
        return append_shards(s3_store, records, samples_per_shard=2).new_samples

    assert plan(CAPTIONS) == 3
    assert plan([*CAPTIONS, "four"]) == 1
    assert [commit.samples for commit in s3_store.commits([SAMPLES])] == [2, 1, 1]


ASK = """
import sys
from x2i_platform.precompute.captions import read_captions
from x2i_platform.errors import X2IError
from x2i_platform.features.store import FeatureStore
def create(url):
    FeatureStore.create(url, fingerprint={})
for ask in (FeatureStore.open, create, lambda url: list(read_captions(url))):
    try:
        ask(sys.argv[1])
    except X2IError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, ""),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}, "credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "Could not connect"),
    ],
)
def test_a_server_that_refuses_or_is_not_there_is_one_line(
    s3_bucket: str, variables: dict[str, str], problem: str
) -> None:
    command = [sys.executable, "-c", ASK, f"{s3_bucket}/some/c.txt"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 3
    assert all("some/c.txt" in message and problem in message for message in messages)
