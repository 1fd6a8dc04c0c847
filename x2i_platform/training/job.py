"""One training, prepared: its samples, sizes and fingerprint. Reads no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import digest
from x2i_platform.features.schema import SAMPLES
from x2i_platform.features.store import FeatureStore, Manifest
from x2i_platform.models.alignnet import AlignNetDims
from x2i_platform.plan import plan_recipe
from x2i_platform.training.data import split


@dataclass(frozen=True)
class Job:
    """Everything a worker is sent, as plain values."""

    recipe: Recipe
    store: str
    manifest: Manifest
    """The store as the job found it; workers don't read the commit records again."""
    train_samples: int
    held_out_samples: int
    manifest_digest: str
    key: str
    dims: AlignNetDims

    @property
    def run_name(self) -> str:
        """Name of the Ray Train run."""
        return f"{self.recipe.name}-{self.key[:12]}"


def prepare(recipe: Recipe, *, store: str) -> Job:
    """Check that the store was made by this recipe and is whole; reads no tensor."""
    features = FeatureStore.open(store)
    features.require(fingerprint.features(recipe))
    manifest = features.whole_manifest()
    train, held_out = split(features, manifest, validation_share=recipe.train.validation_share)
    identity = fingerprint.training(recipe, manifest_digest=manifest.digest, store_fingerprint=manifest.fingerprint)
    return Job(
        recipe=recipe,
        store=features.files.address,
        manifest=manifest,
        train_samples=len(train),
        held_out_samples=len(held_out),
        manifest_digest=manifest.digest,
        key=digest(identity),
        dims=AlignNetDims.of(recipe),
    )


def describe(job: Job) -> dict[str, Any]:
    """What a training would do and cost, for `--dry-run`."""
    recipe = job.recipe
    cost = plan_recipe(recipe, rows=job.train_samples + job.held_out_samples)
    return {
        "run": job.run_name,
        "shards": len(job.manifest.of(SAMPLES)),
        "train_samples": job.train_samples,
        "held_out_samples": job.held_out_samples,
        "warm_start_steps": recipe.train.warm_start_steps,
        "steps": recipe.train.steps,
        "epochs": round(recipe.train.steps * recipe.train.batch_size / job.train_samples, 2),
        "workers": recipe.run.train.workers,
        "strategy": recipe.run.train.strategy,
        "flops_per_sample": cost.student_flops,
        "gpu_hours": round(cost.train_gpu_hours, 4),
        "gpu": cost.gpu,
    }
