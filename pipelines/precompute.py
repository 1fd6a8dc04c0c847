"""captions → text | mllm | targets → feature store, on Ray Data.

What flows through the graph is the number of a shard, not tensors: an actor that holds a model computes the shard,
writes and commits it, and passes the number on. Ray schedules, overlaps and retries; a shard that runs twice commits
once; running the same command again is the only recovery there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines.plan import Plan, plan_recipe, require_budget
from pipelines.ray_session import Need, ray_session
from x2i_platform import fingerprint
from x2i_platform.captions import read_captions
from x2i_platform.config import Recipe
from x2i_platform.errors import InputError, X2IError
from x2i_platform.features.planning import Intake, plan_shards, unique_samples
from x2i_platform.features.schema import FEATURE_TABLES, SAMPLES
from x2i_platform.features.store import FeatureStore, Manifest
from x2i_platform.stages import build_stage

MANIFEST_EVERY_S = 30.0
Progress = Callable[[int, int], None]
"""Called with samples done and samples to do."""


@dataclass(frozen=True)
class Captions:
    """What to read."""

    path: str
    column: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Report:
    """What a run did. `lines == stored + duplicates + quarantined`."""

    store: str
    lines: int
    stored: int
    duplicates: int
    quarantined: int
    new_samples: int
    shards: int
    shards_computed: int
    samples_computed: int
    bytes: int
    seconds: float
    samples_per_s: float
    manifest_digest: str


def estimate(recipe: Recipe, captions: Captions, *, store: str) -> tuple[Intake, Plan]:
    """Read the captions and price the run. Raises what `run` would raise before starting; writes nothing."""
    FeatureStore.check(store, fingerprint=fingerprint.features(recipe))
    intake = Intake()
    chars = [len(row["caption"]) for row in unique_samples(_records(captions), intake=intake)]
    if not chars:
        raise InputError(f"captions '{captions.path}' hold no caption in {intake.lines} lines")
    _require_few_refused(len(intake.refused), intake.lines, recipe=recipe, store=store)
    plan = plan_recipe(recipe, rows=len(chars), caption_chars=sum(chars) / len(chars))
    require_budget(plan, recipe=recipe)
    return intake, plan


def run(recipe: Recipe, captions: Captions, *, store: str, address: str | None, on_progress: Progress) -> Report:
    """Precompute every table of the store for these captions; continues where an earlier run stopped."""
    started = time.monotonic()
    estimate(recipe, captions, store=store)
    features = FeatureStore.create(store, fingerprint=fingerprint.features(recipe))
    features.files.sweep()
    intake = plan_shards(features, _records(captions), samples_per_shard=recipe.store.samples_per_shard)
    before = features.manifest()
    pending = _pending(before)
    sizes = {shard: commit.samples for shard, commit in before.of(SAMPLES).items()}
    total, done = sum(sizes[shard] for shard in pending), 0
    if pending:
        with ray_session(address, need=_need(recipe)):
            published = time.monotonic()
            for shard in _compute(recipe, pending, store=store):
                done += sizes[shard]
                on_progress(done, total)
                if time.monotonic() - published > MANIFEST_EVERY_S:
                    features.publish_manifest()
                    published = time.monotonic()
    manifest = features.publish_manifest()
    seconds = time.monotonic() - started
    report = _report(intake, manifest, store=store, computed=(len(pending), done), seconds=seconds)
    _require_few_refused(report.quarantined, report.lines, recipe=recipe, store=store)
    return report


class StageActor:
    """A stage inside a Ray actor: the model is loaded once, shards come and go."""

    def __init__(self, table: str, *, recipe: dict[str, Any], store: str) -> None:
        self.stage = build_stage(table, recipe=Recipe.model_validate(recipe), store_url=store)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute and commit one shard, and pass it on."""
        self.stage.run(int(row["shard"]))
        return row


def _compute(recipe: Recipe, shards: list[int], *, store: str) -> Iterator[int]:
    """Send shards through all stages; yields each when its last table is committed."""
    # One block a shard: Ray would merge so few and small rows into one block, which one actor would get.
    dataset = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    for table in FEATURE_TABLES:
        resources = getattr(recipe.run, table)
        dataset = dataset.map(
            StageActor,
            fn_constructor_args=(table,),
            fn_constructor_kwargs={"recipe": recipe.model_dump(mode="json"), "store": store},
            compute=ActorPoolStrategy(size=resources.actors),
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
        )
    try:
        for row in dataset.iter_rows():
            yield int(row["shard"])
    except RayError as error:
        raise _ours(error) or error from None


def _ours(error: BaseException | None) -> X2IError | None:
    """The error of this library inside one of Ray's, if that is what stopped the stage."""
    while error is not None:
        if isinstance(error, X2IError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _records(captions: Captions) -> Iterator[Any]:
    return read_captions(captions.path, column=captions.column, limit=captions.limit)


def _pending(manifest: Manifest) -> list[int]:
    return sorted(set(manifest.of(SAMPLES)) - set(manifest.complete_shards()))


def _need(recipe: Recipe) -> Need:
    pools = [getattr(recipe.run, table) for table in FEATURE_TABLES]
    return Need(
        cpus=sum(pool.actors * pool.num_cpus for pool in pools), gpus=sum(pool.actors * pool.num_gpus for pool in pools)
    )


def _report(intake: Intake, manifest: Manifest, *, store: str, computed: tuple[int, int], seconds: float) -> Report:
    failed = len(intake.samples & manifest.quarantined())
    return Report(
        store=store,
        lines=intake.lines,
        stored=len(intake.samples) - failed,
        duplicates=intake.duplicates,
        quarantined=len(intake.refused) + failed,
        new_samples=intake.new_samples,
        shards=len(manifest.of(SAMPLES)),
        shards_computed=computed[0],
        samples_computed=computed[1],
        bytes=sum(commit.num_bytes for commit in manifest.commits),
        seconds=round(seconds, 2),
        samples_per_s=round(computed[1] / seconds, 2),
        manifest_digest=manifest.digest,
    )


def _require_few_refused(refused: int, lines: int, *, recipe: Recipe, store: str) -> None:
    allowed = recipe.store.max_quarantine_share
    if refused > allowed * lines:
        raise InputError(
            f"{refused} of {lines} lines can't be used, more than store.max_quarantine_share = {allowed:g} allows; "
            f"see '{store}/quarantine', mend the captions or raise the share"
        )


__all__ = ["Captions", "Report", "asdict", "estimate", "run"]
