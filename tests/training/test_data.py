"""The order of samples, how workers share it, and batches as they come out of a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, pairwise, product
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.training.conftest import World
from x2i_platform.config import TrainConfig
from x2i_platform.errors import StoreError, TrainingError
from x2i_platform.features.reader import read_samples
from x2i_platform.features.schema import SAMPLES
from x2i_platform.features.store import FeatureStore
from x2i_platform.training.data import (
    Collate,
    FeatureDataset,
    Place,
    StepSampler,
    count_sources,
    endless_order,
    split,
)

PLACES = [Place(shard, f"{shard}-{i}") for shard in range(4) for i in range(5 + shard)]


def steps_of(config: TrainConfig, *, world: int, first_step: int = 0) -> list[list[list[Place]]]:
    """For each step, the micro-batches of all workers, put back into the order of the step."""
    micro_batches = [
        list(StepSampler(PLACES, config=config, steps=range(first_step, config.steps), rank=rank, world=world))
        for rank in range(world)
    ]
    return [
        [micro_batches[rank][i] for i in range(start, start + config.accumulation) for rank in range(world)]
        for start in range(0, len(micro_batches[0]), config.accumulation)
    ]


def test_order_follows_from_seed_and_places() -> None:
    one, other = (list(islice(endless_order(PLACES, seed=3), 3 * len(PLACES))) for _ in range(2))
    assert one == other
    assert one != list(islice(endless_order(PLACES, seed=4), 3 * len(PLACES)))


def test_an_epoch_visits_every_place_once_and_one_shard_at_a_time() -> None:
    order = endless_order(PLACES, seed=0)
    epochs = [list(islice(order, len(PLACES))) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(PLACES)
        assert sum(a.shard != b.shard for a, b in pairwise(epoch)) == 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("world", "accumulation"), product((1, 2), (1, 2)))
def test_every_worker_count_trains_on_the_same_samples(world: int, accumulation: int) -> None:
    config = TrainConfig(steps=9, batch_size=8, accumulation=accumulation, seed=1)
    steps = steps_of(config, world=world)
    order = endless_order(PLACES, seed=1)
    assert [[place for part in step for place in part] for step in steps] == [list(islice(order, 8)) for _ in range(9)]
    assert {len(part) for step in steps for part in step} == {8 // (world * accumulation)}


@pytest.mark.parametrize("world", [1, 2])
def test_a_resumed_sampler_goes_on_where_the_whole_one_is(world: int) -> None:
    config = TrainConfig(steps=9, batch_size=4, accumulation=2)
    assert steps_of(config, world=world, first_step=6) == steps_of(config, world=world)[6:]


def test_a_batch_that_cant_be_shared_out_is_refused() -> None:
    config = TrainConfig(batch_size=6, accumulation=2)
    with pytest.raises(TrainingError, match=r"train.batch_size = 6 .* 2 workers x 2 .* a multiple of 4"):
        StepSampler(PLACES, config=config, steps=range(1), world=2)


def test_split_keeps_a_caption_on_its_side(sampled: World) -> None:
    manifest = sampled.manifest
    train, held_out = split(sampled.store, manifest, validation_share=0.2)
    assert train
    assert held_out
    assert not set(train) & set(held_out)
    shards = manifest.complete_shards()
    for fewer in (shards[:2], shards[1:]):  # as the store grows
        smaller = replace(manifest, commits=tuple(commit for commit in manifest.commits if commit.shard in fewer))
        part = split(sampled.store, smaller, validation_share=0.2)
        assert [place for place in train if place.shard in fewer] == part[0]
        assert [place for place in held_out if place.shard in fewer] == part[1]
    assert set(held_out) <= set(split(sampled.store, manifest, validation_share=0.5)[1])
    everything, nothing = split(sampled.store, manifest, validation_share=0.0)
    assert sorted(everything) == sorted([*train, *held_out])
    assert not nothing


def test_split_leaves_out_what_a_table_could_not_hold(sampled: World) -> None:
    lost = sampled.store.manifest().quarantined()
    train, held_out = sampled.places
    assert len(lost) == 1
    assert len(train) + len(held_out) == 28
    assert lost.isdisjoint(place.sample_id for place in (*train, *held_out))
    dataset = FeatureDataset(sampled.url, sampled.manifest)
    assert all(dataset[place].sample_id == place.sample_id for place in (*train, *held_out))


def test_sources_count_what_is_trained_on_and_held_out(sampled: World) -> None:
    counted = count_sources(sampled.store, sampled.manifest)
    assert counted.total() == 28, "without the one that a table could not hold"
    rows = [row for commit in sampled.manifest.of(SAMPLES).values() for row in read_samples(sampled.store, commit)]
    assert set(counted) == {row["source"] for row in rows}


def test_nothing_to_train_on_is_refused(sampled: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"validation_share = 1 holds out all 28 samples .* lower it"):
        split(sampled.store, sampled.manifest, validation_share=1.0)
    empty = FeatureStore.create(str(tmp_path), fingerprint=sampled.store.fingerprint)
    with pytest.raises(TrainingError, match="no complete shard to train on; run precompute"):
        split(empty, empty.manifest(), validation_share=0.1)


def test_a_shard_that_went_away_is_named(make_world: Callable[..., World]) -> None:
    world = make_world()
    place, manifest = world.places[0][0], world.manifest
    file = Path(world.store.files.path(manifest.of("targets")[place.shard].file))
    file.unlink()
    with pytest.raises(StoreError, match=rf"{file.name}': it is gone; delete 'commits/targets/"):
        FeatureDataset(world.url, manifest)[place]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_what_the_store_holds(sampled: World, num_workers: int) -> None:
    train = sampled.places[0]
    config = sampled.recipe.train
    loader = DataLoader(
        FeatureDataset(sampled.url, sampled.manifest),
        batch_sampler=StepSampler(train, config=config, steps=range(config.steps)),
        collate_fn=Collate("zero", text_tokens=48),
        num_workers=num_workers,
    )
    dataset, expected = FeatureDataset(sampled.url, sampled.manifest), endless_order(train, seed=config.seed)
    seen: Counter[str] = Counter()
    for batch in loader:
        for i, sample in enumerate(dataset[place] for place in islice(expected, config.batch_size)):
            length = sample.states_CSH.shape[1]
            target = sample.targets["single.1"]
            assert (batch.sample_ids[i], batch.seeds[i]) == (sample.sample_id, sample.seed)
            assert torch.equal(batch.states_BCSH[i, :, :length], sample.states_CSH)
            assert batch.mask_BS[i].tolist() == [True] * length + [False] * (48 - length)
            assert (tuple(batch.text_idx_BT[i].tolist()), tuple(batch.image_idx_BT[i].tolist())) == (
                target.text_idx,
                target.image_idx,
            )
            assert torch.equal(batch.targets_BTD["single.1"][i], target.values_TD)
        seen.update(batch.sample_ids)
    assert seen.total() == config.steps * config.batch_size
    assert batch.text_idx_BT.shape == (4, 11)
    assert batch.image_idx_BT.shape == (4, 7)
    assert {tap: tuple(values.shape[:2]) for tap, values in batch.targets_BTD.items()} == {
        **{f"double.{i}.image": (4, 7) for i in range(2)},
        **{f"double.{i}.text": (4, 11) for i in range(2)},
        **{f"single.{i}": (4, 18) for i in range(3)},
    }


def test_a_batch_moves_whole(sampled: World) -> None:
    batch = Collate("none", text_tokens=48)(sampled.samples(2)).to("meta")
    tensors = [batch.states_BCSH, batch.mask_BS, batch.text_idx_BT, batch.image_idx_BT, *batch.targets_BTD.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.states_BCSH.shape[2] == max(sample.states_CSH.shape[1] for sample in sampled.samples(2))
