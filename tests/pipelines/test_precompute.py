"""Precompute on a real Ray: every line is accounted for, and a killed run loses and repeats nothing."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines import RECIPES
from pipelines.precompute import PrecomputeSummary, describe, estimate, run
from tests.random_models import CAPTIONS, RANDOM
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError, InputError, StoreError, WeightsError
from x2i_platform.features.schema import FEATURE_TABLES
from x2i_platform.models.weights import locate
from x2i_platform.precompute.captions import Captions
from x2i_platform.progress import Metrics
from x2i_platform.recipes import load

SMALL = ("store.samples_per_shard=8", "targets.taps=[double.0.image, single.0]")
SHARDS = 10


def recipe(*overrides: str) -> Recipe:
    return load(RANDOM, shipped=RECIPES, overrides=[*SMALL, *overrides])


def silent(done: int, total: int, metrics: Metrics | None = None, /) -> None:
    """No progress bar."""


def first_captions(number: int) -> list[str]:
    return CAPTIONS[:number]


def stored_ids(store: Path, table: str) -> list[str]:
    """Sample ids of a table's committed rows, read with plain pyarrow; a tap's rows count once."""
    commits = [json.loads(path.read_text()) for path in sorted((store / "commits" / table).glob("*.json"))]
    tables = [pq.read_table(store / commit["file"], columns=["sample_id"]) for commit in commits]
    ids = [sample for part in tables for sample in part.column("sample_id").to_pylist()]
    return [sample for i, sample in enumerate(ids) if i == 0 or sample != ids[i - 1]]


def test_every_line_is_stored_quarantined_or_a_duplicate(
    tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the cluster's workers stay where it was started
    lines = [caption.encode() for caption in first_captions(20)]
    lines[4:4] = [b"nul\0", b"", lines[0], b"\xff\xfe broken", b"x " * 400]
    path, store = tmp_path / "captions.txt.gz", tmp_path / "store"
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    chosen = recipe("store.max_quarantine_share=0.2")

    def precompute(limit: int | None = None) -> PrecomputeSummary:
        source = Captions(str(path), limit=limit)
        return run(chosen, source, store=store.name, address=ray_cluster, on_progress=silent)

    report = precompute(limit=17)
    assert (report.lines, report.stored, report.duplicates, report.quarantined) == (17, 13, 1, 3)
    assert json.loads((store / "manifest.json").read_text())["digest"] == report.manifest_digest
    kept = {table: commits(store, table) for table in FEATURE_TABLES}

    again = precompute(limit=17)
    assert again.shards_computed == 0
    assert (again.stored, again.manifest_digest) == (report.stored, report.manifest_digest)

    more = precompute()
    assert (more.lines, more.stored, more.duplicates, more.quarantined, more.new_samples) == (24, 20, 1, 3, 7)
    for table in FEATURE_TABLES:
        ids = stored_ids(store, table)
        assert len(ids) == len(set(ids))
        assert commits(store, table).items() >= kept[table].items()
    assert len(stored_ids(store, "mllm")) == 20
    reasons = [json.loads(line) for file in (store / "quarantine").iterdir() for line in file.read_text().splitlines()]
    assert {row["line"] for row in reasons} == {5, 8, 9}
    assert all(row["source"] == str(path) and row["reason"] for row in reasons)

    with pytest.raises(StoreError, match=r"targets\.codec: 'int8' in the store, 'bf16' asked for"):
        estimate(recipe("targets.codec=bf16"), Captions(str(path)), store=str(store))


def test_what_can_be_refused_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path, store = tmp_path / "captions.txt", tmp_path / "store"
    path.write_text("\n".join(first_captions(5)))
    with pytest.raises(ConfigError, match=r"byte_budget is 200,000; .*--limit 2"):
        estimate(recipe("store.byte_budget=200_000"), Captions(str(path)), store=str(store))
    path.write_text(f"one\nnul\0\n\n{'x' * 30_000}\nnul\0 too\n")
    with pytest.raises(
        InputError, match=r"3 of 4 lines .*: .*captions.txt:2: caption holds a NUL.*; .*:4: caption of "
    ):
        estimate(recipe(), Captions(str(path)), store=str(store))
    path.write_text("\n".join([*first_captions(2), "very small " * 200]))
    with pytest.raises(InputError, match=r"1 of 3 lines .*captions.txt:3: prompt of \d+ tokens, at most \d+ can be"):
        estimate(recipe(), Captions(str(path)), store=str(store))
    assert describe(recipe("store.max_quarantine_share=0.5"), Captions(str(path)), store=str(store))["too_long"] == 1
    path.write_text("nul\0\n\n")
    with pytest.raises(InputError, match=r"no caption in 1 lines: .*captions.txt:1: caption holds a NUL"):
        estimate(recipe(), Captions(str(path)), store=str(store))
    path.write_text("\n")
    with pytest.raises(InputError, match="no caption in 0 lines"):
        estimate(recipe(), Captions(str(path)), store=str(store))
    assert not store.exists()


@pytest.mark.slow
def test_what_an_actor_refuses_reaches_the_user(tmp_path: Path, ray_cluster: str) -> None:
    teacher = tmp_path / "flux"
    shutil.copytree(locate("mini:random-flux"), teacher)
    config = teacher / "transformer" / "config.json"  # asks for a block whose weights aren't there
    layers = json.loads(config.read_text())
    config.write_text(json.dumps({**layers, "num_single_layers": layers["num_single_layers"] + 1}))
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(first_captions(3)))
    chosen, store = recipe(f"teacher.model={teacher}"), str(tmp_path / "store")
    with pytest.raises(WeightsError, match="transformer"):
        run(chosen, Captions(str(path)), store=store, address=ray_cluster, on_progress=silent)


def start(captions: Path, store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from cli import main; main()", "precompute", RANDOM, "--json"]
    command += ["--captions", str(captions), "--store", str(store)]
    command += [part for override in SMALL for part in ("--set", override)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def wait_for(condition: Callable[[], bool], *, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def commits(store: Path, table: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "commits" / table).glob("*.json")}


def stage_workers(run: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(run.pid).children(recursive=True)
    return [child for child in children if "StageActor" in "".join(child.cmdline())]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_and_a_killed_worker_cost_nothing_that_was_committed(tmp_path: Path) -> None:
    captions, store = tmp_path / "captions.txt", tmp_path / "store"
    captions.write_text("\n".join(first_captions(8 * SHARDS)))

    first = start(captions, store)
    wait_for(lambda: len(commits(store, "targets")) >= 2, run=first)
    # Ray's two agents of a node look for a while for someone to report its death to; they compute nothing.
    cluster = [child for child in psutil.Process(first.pid).children(recursive=True) if "Agent" not in child.name()]
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(cluster, timeout=60)
    assert not alive, "the cluster outlived its driver"
    kept = {table: commits(store, table) for table in FEATURE_TABLES}
    assert len(kept["targets"]) < SHARDS

    second = start(captions, store)
    wait_for(lambda: len(commits(store, "targets")) >= len(kept["targets"]) + 1, run=second)
    workers = stage_workers(second)
    assert workers
    for worker in workers:
        worker.kill()
    output, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors.decode()[-3000:]

    report = json.loads(output)
    assert (report["lines"], report["stored"], report["shards"]) == (8 * SHARDS, 8 * SHARDS, SHARDS)
    assert report["shards_computed"] <= SHARDS - len(kept["targets"])
    for table in FEATURE_TABLES:
        ids = stored_ids(store, table)
        assert len(ids) == len(set(ids)) == 8 * SHARDS
        assert commits(store, table).items() >= kept[table].items(), "a committed shard was computed again"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_stops_soon_and_says_how_to_continue(tmp_path: Path) -> None:
    captions, store = tmp_path / "captions.txt", tmp_path / "store"
    captions.write_text("\n".join(first_captions(8 * SHARDS)))
    process = start(captions, store)
    wait_for(lambda: len(commits(store, "text")) >= 1, run=process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    # CPython ends itself by SIGINT, which a shell reports as 130 too, if the interrupt met it inside exec("...").
    assert (128 - process.returncode if process.returncode < 0 else process.returncode) == 130
    assert b"run the same command again to continue" in errors
    assert b"Traceback" not in errors
