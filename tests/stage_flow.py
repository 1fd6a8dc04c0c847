"""The three stages with their miniature models, over stores of a test's own: fixtures for the tests of stages."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

import tests.random_models as random_models
from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.features.reader import Sample, ShardReader, read_table
from x2i_platform.features.schema import MLLM, TARGETS, TEXT, sample_id
from x2i_platform.features.store import FeatureStore
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards
from x2i_platform.precompute.stages import MLLMStage, Stage, TargetsStage, TextStage, build_stage
from x2i_platform.recipes import load

CAPTIONS = random_models.CAPTIONS[:6]
AnyStage = TypeVar("AnyStage", bound=Stage)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    settings = ["teacher.text_tokens=48", "mllm.max_tokens=48"]
    settings += ["targets.codec=bf16", "targets.image_tokens=7", "targets.text_tokens=5"]
    return load(random_models.RANDOM, shipped=RECIPES, overrides=settings)


def new_store(folder: Path, captions: Sequence[str], *, size: int = 16) -> FeatureStore:
    store = FeatureStore.create(str(folder), fingerprint={})
    records = [Record("c.txt", line, caption) for line, caption in enumerate(captions, 1)]
    append_shards(store, records, samples_per_shard=size)
    return store


@pytest.fixture(scope="module")
def stages(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """Each with its model; tests use copies that have another store."""
    store = new_store(tmp_path_factory.mktemp("stages") / "store", ["a"])
    return {table: build_stage(table, recipe=recipe, store_url=store.files.url) for table in (TEXT, MLLM, TARGETS)}


class Flow:
    """The three stages over one store."""

    def __init__(self, stages: dict[str, Stage], store: FeatureStore, *, batch_size: int = 4) -> None:
        self.store = store
        self.text = self._over(stages[TEXT], TextStage, batch_size)
        self.mllm = self._over(stages[MLLM], MLLMStage, batch_size)
        self.targets = self._over(stages[TARGETS], TargetsStage, batch_size)

    def _over(self, stage: Stage, kind: type[AnyStage], batch_size: int) -> AnyStage:
        mine = copy.copy(stage)
        assert isinstance(mine, kind)
        mine.store, mine.batch_size = self.store, batch_size
        return mine

    def run(self, shard: int = 0) -> list[bool]:
        return [stage.run(shard) for stage in (self.text, self.mllm, self.targets)]

    def ids(self, table: str, shard: int = 0) -> list[str]:
        commit = self.store.commit_of(table, shard)
        assert commit
        return list(dict.fromkeys(read_table(self.store, commit).column("sample_id").to_pylist()))

    def sample(self, caption: str, shard: int = 0) -> Sample:
        mllm, targets = self.store.commit_of(MLLM, shard), self.store.commit_of(TARGETS, shard)
        assert mllm
        assert targets
        return ShardReader(self.store, mllm=mllm, targets=targets).sample(sample_id(caption))

    def quarantined(self) -> list[dict[str, Any]]:
        files = sorted((Path(self.store.files.url) / "quarantine").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def flow(stages: dict[str, Stage], tmp_path: Path) -> Flow:
    return Flow(stages, new_store(tmp_path / "store", CAPTIONS))
