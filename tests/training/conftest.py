"""Small feature stores made by the stages themselves, once for this folder, and trainers on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from pipelines import RECIPES
from tests.features.made_rows import committed
from tests.random_models import CAPTIONS, RANDOM
from tests.training.recorder import LONG, Recorder
from x2i_platform import fingerprint, recipes
from x2i_platform.config import Recipe
from x2i_platform.features.codec import encode_raw
from x2i_platform.features.reader import Sample, ShardReader
from x2i_platform.features.schema import FEATURE_TABLES, MLLM, SAMPLES, TARGETS
from x2i_platform.features.store import FeatureStore, Manifest
from x2i_platform.features.writer import open_shard, tensor_columns
from x2i_platform.models.alignnet import AlignNetDims
from x2i_platform.models.catalog import dit_dims, mllm_dims
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards
from x2i_platform.precompute.stages import build_stage
from x2i_platform.training.data import FeatureDataset, Place, split
from x2i_platform.training.loop import Data, Trainer, Worker

NUM_CAPTIONS = 28
TOO_LONG = "a red circle above " * 12 + "a blue square"
SMALL = (
    *("teacher.text_tokens=48", "mllm.max_tokens=48", "store.samples_per_shard=8", "train.validation_share=0.2"),
    *("run.train.strategy=ddp", "train.batch_size=4", "train.steps=6", "train.warmup_steps=2"),
)


@dataclass(frozen=True)
class World:
    """A store, and the recipe that it was made by."""

    recipe: Recipe
    url: str

    @property
    def store(self) -> FeatureStore:
        return FeatureStore.open(self.url)

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest()

    @property
    def places(self) -> tuple[list[Place], list[Place]]:
        return split(self.store, self.manifest, validation_share=self.recipe.train.validation_share)

    @property
    def data(self) -> Data:
        return Data(self.url, self.manifest, *self.places)

    @property
    def dims(self) -> AlignNetDims:
        teacher, mllm = dit_dims(self.recipe.teacher.model), mllm_dims(self.recipe.mllm.model)
        return AlignNetDims(
            num_layers=mllm.num_states,
            hidden_size=mllm.hidden_size,
            text_tokens=self.recipe.teacher.text_tokens,
            prompt_dim=teacher.joint_dim,
            pooled_dim=teacher.pooled_dim,
        )

    def samples(self, count: int) -> list[Sample]:
        dataset = FeatureDataset(self.url, self.manifest)
        return [dataset[place] for place in self.places[0][:count]]

    def trainer(self, *overrides: str) -> Trainer:
        recipe = recipes.override(self.recipe, overrides)
        return Trainer(recipe, dims=self.dims, worker=Worker(0, 1, "cpu"), data=World(recipe, self.url).data)


def build_world(folder: Path, *overrides: str) -> World:
    """Plan and compute a store, as `precompute` does with Ray around it. One caption is too long for the MLLM."""
    recipe = recipes.load(RANDOM, shipped=RECIPES, overrides=[*SMALL, *overrides])
    store = FeatureStore.create(str(folder), fingerprint=fingerprint.features(recipe))
    captions = [TOO_LONG, *CAPTIONS[:NUM_CAPTIONS]]
    records = [Record(source="captions.txt", line=i, caption=caption) for i, caption in enumerate(captions, start=1)]
    append_shards(store, records, samples_per_shard=recipe.store.samples_per_shard)
    for table in FEATURE_TABLES:
        stage = build_stage(table, recipe=recipe, store_url=str(folder))
        for shard in store.manifest().of(SAMPLES):
            stage.run(shard)
    return World(recipe, str(folder))


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    """Builds a store of its own for a test."""
    return partial(build_world, tmp_path / "store")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Every token of every tap, in bfloat16."""
    kept = ("targets.codec=bf16", "targets.image_tokens=all", "targets.text_tokens=all")
    return build_world(tmp_path_factory.mktemp("whole"), *kept)


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Some tokens of every tap, in int8, as a real training has them."""
    kept = ("targets.codec=int8", "targets.image_tokens=7", "targets.text_tokens=11")
    return build_world(tmp_path_factory.mktemp("sampled"), *kept)


@pytest.fixture(scope="session")
def poisoned(sampled: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A store in which the hidden states of one training sample became NaN, and that sample's id."""
    folder = tmp_path_factory.mktemp("poisoned") / "store"
    shutil.copytree(sampled.url, folder)
    world = World(sampled.recipe, str(folder))
    place, everything = world.places[0][-1], [place for side in world.places for place in side]
    commit = committed(world.store, MLLM, place.shard)
    reader = ShardReader(world.store, mllm=commit, targets=committed(world.store, TARGETS, place.shard))
    (folder / commit.record).unlink()
    with open_shard(world.store, table=MLLM, shard=place.shard) as writer:
        for other in sorted(other for other in everything if other.shard == place.shard):
            states_CSH = reader.sample(other.sample_id).states_CSH
            if other == place:
                states_CSH = torch.full_like(states_CSH, float("nan"))
            columns = tensor_columns(encode_raw(states_CSH))
            writer.add({"sample_id": other.sample_id, "num_tokens": states_CSH.shape[1], **columns})
    return world, place.sample_id


@pytest.fixture(scope="session")
def uninterrupted(sampled: World, tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """A whole training, for all who compare theirs with it."""
    torch.set_num_threads(1)
    return Recorder(tmp_path_factory.mktemp("uninterrupted")).run(sampled.trainer(*LONG))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def build_a_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    return lambda *overrides: build_world(tmp_path_factory.mktemp("store"), *overrides)
