"""What is read, and how often: commit records and configs cost a request each where they lie on an object store."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pipelines import RECIPES
from tests.random_models import CAPTIONS, RANDOM
from x2i_platform import fingerprint
from x2i_platform.features.schema import FEATURE_TABLES, SAMPLES
from x2i_platform.features.store import Commit, FeatureStore
from x2i_platform.features.writer import open_shard
from x2i_platform.models import entries
from x2i_platform.models.weights import locate
from x2i_platform.plan import plan_recipe
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards
from x2i_platform.recipes import load
from x2i_platform.training.data import FeatureDataset, split
from x2i_platform.training.job import prepare

SHARDS = 100


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Names of commit records by how often they were read."""
    names: Counter[str] = Counter()
    real = Commit.from_json

    def counting(data: bytes, *, name: str) -> Commit:
        names[name] += 1
        return real(data, name=name)

    monkeypatch.setattr(Commit, "from_json", counting)
    return names


def test_a_training_reads_each_commit_record_once(tmp_path: Path, parsed: Counter[str]) -> None:
    recipe = load(RANDOM, shipped=RECIPES)
    store = FeatureStore.create(str(tmp_path), fingerprint=fingerprint.features(recipe))
    records = [Record("c.txt", number, f"{CAPTIONS[0]} {number}") for number in range(SHARDS)]
    append_shards(store, records, samples_per_shard=1)
    for table in FEATURE_TABLES:
        for shard in range(SHARDS):
            with open_shard(store, table=table, shard=shard):
                pass
    parsed.clear()
    job = prepare(recipe, store=str(tmp_path))
    assert len(parsed) == SHARDS * (1 + len(FEATURE_TABLES))
    assert set(parsed.values()) == {1}
    # What each worker and each of its loaders does.
    split(FeatureStore.open(job.store), job.manifest, validation_share=0.1)
    FeatureDataset(job.store, job.manifest)
    assert set(parsed.values()) == {1}
    assert len(job.manifest.of(SAMPLES)) == SHARDS


def test_a_plan_reads_each_config_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[Path] = Counter()
    real = entries.read_config

    def counting(folder: Path) -> dict[str, object]:
        read[folder] += 1
        return real(folder)

    monkeypatch.setattr(entries, "read_config", counting)
    models = [f"teacher.model={locate('mini:random-flux')}", f"mllm.model={locate('mini:random-qwen2.5-vl')}"]
    plan_recipe(load(RANDOM, shipped=RECIPES, overrides=models), rows=1)
    assert len(read) == 4
    assert set(read.values()) == {1}
