"""Not an example but what two of them need: a feature store of a few captions, made in this process.

It is what `x2i-platform precompute` does, without Ray around it.
"""

from __future__ import annotations

from collections.abc import Sequence

from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.features.schema import SAMPLES, STAGE_ORDER
from x2i_platform.features.store import FeatureStore
from x2i_platform.precompute.captions import Record
from x2i_platform.precompute.shards import append_shards
from x2i_platform.precompute.stages import build_stage


def make_store(folder: str, *, recipe: Recipe, captions: Sequence[str]) -> FeatureStore:
    """A store of the captions' features. What is there already is not computed again."""
    store = FeatureStore.create(folder, fingerprint=fingerprint.features(recipe))
    records = [Record("examples", line, caption) for line, caption in enumerate(captions, start=1)]
    # The plan: which captions are in which shard. It is table `samples` of the store.
    append_shards(store, records, samples_per_shard=recipe.store.samples_per_shard)
    for table in STAGE_ORDER:
        # A stage holds a frozen model, and computes and commits one shard at a time.
        stage = build_stage(table, recipe=recipe, store_url=folder)
        for shard in store.manifest().of(SAMPLES):
            stage.run(shard)
    return store
