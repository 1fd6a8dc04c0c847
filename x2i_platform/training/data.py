"""Makes training batches from committed shards.

Shape suffixes: B batch, C MLLM layers + 1, S tokens, H hidden width, T kept tokens, D channels.

Invariant: the samples of step n are a pure function of the seed and the shards, independent of the number of workers. A
worker takes its slice of each step's samples.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from x2i_platform.config import Padding, TrainConfig
from x2i_platform.errors import TrainingError
from x2i_platform.features.reader import Sample, ShardReader, TextSample, read_samples
from x2i_platform.features.schema import MLLM, SAMPLES, TARGETS, sample_seed
from x2i_platform.features.store import FeatureStore, Manifest
from x2i_platform.models.alignnet import pad_states

SHARDS_HELD = 2
"""Shards that a reader keeps open. Few are enough, because samples are only shuffled within their shard."""


@dataclass(frozen=True)
class StatesBatch:
    """AlignNet's inputs for a batch of samples."""

    sample_ids: tuple[str, ...]
    states_BCSH: Tensor
    mask_BS: Tensor

    def to(self, device: str) -> Self:
        """Return the batch with its tensors on a device. Copies from pinned memory don't block."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=True)
            elif isinstance(value, dict):
                moved[field.name] = {key: tensor.to(device, non_blocking=True) for key, tensor in value.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class Batch(StatesBatch):
    """A batch of distillation. All samples keep the same number of tokens, but not the same tokens."""

    seeds: tuple[int, ...]
    text_idx_BT: Tensor
    image_idx_BT: Tensor
    targets_BTD: dict[str, Tensor]
    """By tap name; text tokens before image tokens."""
    canvas_BL: Tensor | None = None
    """The latents that the teacher saw, one flat row per sample; None if they were the noise of the seeds."""


@dataclass(frozen=True, order=True)
class Place:
    """The shard and id of a sample."""

    shard: int
    sample_id: str


def split(store: FeatureStore, manifest: Manifest, *, validation_share: float) -> tuple[list[Place], list[Place]]:
    """Split the samples that all tables hold into those to train on and those to validate on, each in store order.

    Raises TrainingError if there is nothing to train on.
    """
    lost, planned = manifest.quarantined(), manifest.of(SAMPLES)
    train: list[Place] = []
    held_out: list[Place] = []
    for shard in manifest.complete_shards():
        for row in read_samples(store, planned[shard]):
            if row["sample_id"] in lost:
                continue
            place = Place(shard, row["sample_id"])
            (held_out if _is_held_out(place.sample_id, share=validation_share) else train).append(place)
    if held_out and not train:
        raise TrainingError(
            f"train.validation_share = {validation_share:g} holds out all {len(held_out)} samples of store "
            f"'{store.files.url}'; lower it"
        )
    if not train:
        raise TrainingError(f"store '{store.files.url}' holds no complete shard to train on; run precompute first")
    return train, held_out


def count_sources(store: FeatureStore, manifest: Manifest) -> Counter[str]:
    """Count the captions that each file or URL gave to the samples of `split`, held out or not."""
    lost, planned = manifest.quarantined(), manifest.of(SAMPLES)
    rows = (row for shard in manifest.complete_shards() for row in read_samples(store, planned[shard]))
    return Counter(row["source"] for row in rows if row["sample_id"] not in lost)


def _is_held_out(sample_id: str, *, share: float) -> bool:
    """Decide by the sample's id alone, so a sample stays on its side as a store grows."""
    return sample_seed(sample_id, seed=0, purpose="validation") / 2**63 < share


def endless_order(places: Sequence[Place], *, seed: int) -> Iterator[Place]:
    """Yield places epoch after epoch, each in a new order: shuffle the shards, then the samples inside each shard."""
    by_shard: dict[int, list[Place]] = {}
    for place in places:
        by_shard.setdefault(place.shard, []).append(place)
    epoch = 0
    while True:
        generator = random.Random(f"{seed}:{epoch}")
        shards = sorted(by_shard)
        generator.shuffle(shards)
        for shard in shards:
            inside = list(by_shard[shard])
            generator.shuffle(inside)
            yield from inside
        epoch += 1


class StepSampler:
    """Yields the places of each micro-batch of one worker, `accumulation` micro-batches per optimizer step."""

    def __init__(
        self, places: Sequence[Place], *, config: TrainConfig, steps: range, rank: int = 0, world: int = 1
    ) -> None:
        """Steps count from 0. Raises TrainingError if a batch can't be split evenly."""
        self.parts = world * config.accumulation
        if config.batch_size % self.parts:
            raise TrainingError(
                f"train.batch_size = {config.batch_size} can't be shared by {world} workers x {config.accumulation} "
                f"accumulation steps; use a multiple of {self.parts}"
            )
        self.places, self.config, self.steps = places, config, steps
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[Place]]:
        """Yield lists of places. Worker r of W takes the micro-batches r, r + W, r + 2W, ... of each step."""
        order = endless_order(self.places, seed=self.config.seed)
        size = self.config.batch_size // self.parts
        for step in range(self.steps.stop):
            whole = list(itertools.islice(order, self.config.batch_size))
            if step not in self.steps:
                continue
            for part in range(self.rank, self.parts, self.world):
                yield whole[part * size : (part + 1) * size]


AnySample_co = TypeVar("AnySample_co", covariant=True)


class Reader(Protocol[AnySample_co]):
    """One open shard."""

    def sample(self, sample_id: str) -> AnySample_co:
        """Decode one sample."""


class ShardDataset(Dataset[AnySample_co]):
    """Reads samples by place and keeps the last few shards open. A subclass names the tables that it reads."""

    tables: ClassVar[tuple[str, ...]]
    reader: ClassVar[Callable[..., Reader[Any]]]
    """Opens a shard of a store, given its commit in each table by name."""

    def __init__(self, store_url: str, manifest: Manifest) -> None:
        self.store_url = store_url
        self._commits = {table: manifest.of(table) for table in self.tables}
        self._open: OrderedDict[int, Reader[AnySample_co]] = OrderedDict()
        self._store: FeatureStore | None = None

    def __getitem__(self, place: Place) -> AnySample_co:
        """Read one sample."""
        return self._shard(place.shard).sample(place.sample_id)

    def _shard(self, shard: int) -> Reader[AnySample_co]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        # Opened here and not in __init__: a loader process must have its own connections.
        self._store = self._store or FeatureStore.open(self.store_url)
        self._open[shard] = self.reader(self._store, **{table: self._commits[table][shard] for table in self.tables})
        if len(self._open) > SHARDS_HELD:
            self._open.popitem(last=False)
        return self._open[shard]


class FeatureDataset(ShardDataset[Sample]):
    """Samples of distillation."""

    tables = (MLLM, TARGETS)
    reader = ShardReader


@dataclass(frozen=True)
class Collate:
    """Collates samples. A dataclass, so it can be sent to a loader process."""

    padding: Padding
    text_tokens: int

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Make one batch. Raises TrainingError like `pad_samples`."""
        states = pad_samples(samples, padding=self.padding, text_tokens=self.text_tokens)
        taps = list(samples[0].targets)
        # A recipe stores canvases for all samples or for none.
        canvases = [sample.canvas for sample in samples if sample.canvas is not None]
        return Batch(
            **vars(states),
            seeds=tuple(sample.seed for sample in samples),
            text_idx_BT=torch.tensor([_indices(sample, "text_idx") for sample in samples], dtype=torch.long),
            image_idx_BT=torch.tensor([_indices(sample, "image_idx") for sample in samples], dtype=torch.long),
            targets_BTD={tap: torch.stack([s.targets[tap].values_TD for s in samples]) for tap in taps},
            canvas_BL=torch.stack(canvases) if canvases else None,
        )


def pad_samples(samples: Sequence[Sample] | Sequence[TextSample], *, padding: Padding, text_tokens: int) -> StatesBatch:
    """Pad states to one batch. Raises TrainingError for more MLLM tokens than the teacher has text tokens."""
    states = [sample.states_CSH for sample in samples]
    longest = max(states_CSH.shape[1] for states_CSH in states)
    if padding != "none" and longest > text_tokens:
        raise TrainingError(f"a caption of {longest} MLLM tokens; the teacher has {text_tokens} text tokens")
    padded = pad_states(states, text_tokens=text_tokens, padding=padding)
    return StatesBatch(tuple(sample.sample_id for sample in samples), *padded)


def _indices(sample: Sample, name: str) -> list[int]:
    """Return a sample's kept token indices. All taps share them, but a tap without this stream has an empty list."""
    drawn: list[tuple[int, ...]] = [getattr(target, name) for target in sample.targets.values()]
    longest = max(drawn, key=len)
    return list(longest)
