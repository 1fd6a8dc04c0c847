"""One training, planned: which samples, which sizes, under which fingerprint. Reads no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.plan import plan_recipe
from x2i_platform import fingerprint
from x2i_platform.config import Recipe, digest
from x2i_platform.distill.data import split
from x2i_platform.features.schema import SAMPLES
from x2i_platform.features.store import FeatureStore, Manifest
from x2i_platform.models.alignnet import AlignNetDims
from x2i_platform.models.catalog import dit_dims, mllm_dims
from x2i_platform.models.dims import t5_attention


@dataclass(frozen=True)
class Job:
    """Everything a worker is sent, as plain values."""

    recipe: Recipe
    store: str
    manifest: Manifest
    """The store as it was found; workers read no commit record again."""
    train_samples: int
    held_out_samples: int
    manifest_digest: str
    key: str
    dims: AlignNetDims

    @property
    def run_name(self) -> str:
        """Name of the Ray Train run."""
        return f"{self.recipe.name}-{self.key[:12]}"


def plan(recipe: Recipe, *, store: str) -> Job:
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
        dims=alignnet_dims(recipe),
    )


def alignnet_dims(recipe: Recipe) -> AlignNetDims:
    """AlignNet's sizes between the recipe's two models. Raises ConfigError for heads that don't divide the width."""
    teacher = dit_dims(recipe.teacher.model, revision=recipe.teacher.revision)
    mllm = mllm_dims(recipe.mllm.model, revision=recipe.mllm.revision)
    heads, head_dim = t5_attention(recipe.alignnet, hidden_size=mllm.hidden_size)
    return AlignNetDims(
        num_layers=mllm.num_states,
        hidden_size=mllm.hidden_size,
        text_tokens=recipe.teacher.text_tokens,
        prompt_dim=teacher.joint_dim,
        pooled_dim=teacher.pooled_dim,
        t5_heads=heads,
        t5_head_dim=head_dim,
    )


def describe(job: Job) -> dict[str, Any]:
    """What a training would do and cost."""
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
