"""captions → mllm | text → targets → feature store, on Ray Data.

What flows through the graph is the number of a shard, not tensors: an actor that holds a model computes the shard,
writes and commits it, and passes the number on. Ray schedules, overlaps and retries; a shard that runs twice commits
once; running the same command again is the only recovery there is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from pipelines.ray_cluster.session import Demand, bounded_restarts, ray_session, worker_error
from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.errors import InputError, X2IError, from_text, to_text
from x2i_platform.features.schema import FEATURE_TABLES, SAMPLES, STAGE_ORDER
from x2i_platform.features.store import FeatureStore, Fingerprint, Manifest
from x2i_platform.plan import Plan, plan_recipe, require_budget
from x2i_platform.precompute.captions import Captions, KeptRecords, Record
from x2i_platform.precompute.intake import Intake, count_captions
from x2i_platform.precompute.shards import append_shards
from x2i_platform.progress import Progress


@dataclass(frozen=True)
class PrecomputeSummary:
    """What a run did. `lines == stored + duplicates + quarantined`."""

    store: str
    lines: int
    stored: int
    duplicates: int
    quarantined: int
    not_read: dict[str, int]
    """Files under the captions' path that were not read, by ending."""
    new_samples: int
    shards: int
    shards_computed: int
    samples_computed: int
    bytes: int
    seconds: float
    samples_per_s: float
    manifest_digest: str


def estimate(recipe: Recipe, captions: Captions, *, store: str) -> tuple[Intake, Plan]:
    """Read the captions and price the run; writes nothing.

    Raises InputError for captions that can't be used, StoreError for a store of another recipe, ConfigError for a store
    that would outgrow its budget.
    """
    return _estimate(recipe, captions.records(), path=captions.path, store=store, made_by=fingerprint.features(recipe))


def _estimate(
    recipe: Recipe, records: Iterable[Record], *, path: str, store: str, made_by: Fingerprint
) -> tuple[Intake, Plan]:
    FeatureStore.check(store, fingerprint=made_by)
    intake, counted = count_captions(records, path=path, fault=_fault(recipe))
    hint = f"the first reasons: {intake.first_reasons()}"
    _require_few_refused(len(intake.refused) + len(intake.unfit), intake.lines, recipe=recipe, hint=hint)
    plan = plan_recipe(recipe, rows=counted.rows, caption_chars=counted.mean_chars)
    require_budget(plan, recipe=recipe)
    return intake, plan


def _fault(recipe: Recipe) -> Callable[[dict[str, Any]], str | None]:
    """Returns a function that says why a caption is too long for the MLLM. Only the tokenizer is needed, before any
    computing.
    """
    from x2i_platform.models.prompt_reader import caption_tokens  # loads transformers
    from x2i_platform.precompute.draws import prompt_limit

    count = caption_tokens(recipe.mllm)

    def fault(row: dict[str, Any]) -> str | None:
        limit = prompt_limit(row["sample_id"], recipe=recipe)
        tokens = count(row["caption"], limit)
        return f"prompt of {tokens} tokens, at most {limit} can be used" if tokens > limit else None

    return fault


def describe(recipe: Recipe, captions: Captions, *, store: str) -> dict[str, Any]:
    """What `--dry-run` shows; raises as `estimate` does."""
    intake, plan = estimate(recipe, captions, store=store)
    return {
        "lines": intake.lines,
        "captions": len(intake.samples),
        "duplicates": intake.duplicates,
        "quarantined": len(intake.refused),
        "too_long": len(intake.unfit),
        "not_read": captions.found.not_read,
        "plan": asdict(plan),
    }


def run(
    recipe: Recipe, captions: Captions, *, store: str, address: str | None, on_progress: Progress
) -> PrecomputeSummary:
    """Precompute every table of the store for these captions; continues where an earlier run stopped."""
    started = time.monotonic()
    made_by = fingerprint.features(recipe)
    with KeptRecords(captions.records()) as records:
        _estimate(recipe, records, path=captions.path, store=store, made_by=made_by)
        features = FeatureStore.create(store, fingerprint=made_by)
        features.files.sweep()
        intake = append_shards(features, records, samples_per_shard=recipe.store.samples_per_shard)
    sizes = _pending(features.manifest())
    done = 0
    if sizes:
        with ray_session(address, demand=_demand(recipe)):
            for shard in _compute(recipe, list(sizes), store=features.files.address):
                done += sizes[shard]
                on_progress(done, sum(sizes.values()))
    manifest = features.publish_manifest()
    seconds = time.monotonic() - started
    summary = _summary(intake, manifest, captions=captions, store=store, computed=(len(sizes), done), seconds=seconds)
    hint = f"see '{store}/quarantine' for the reasons"
    _require_few_refused(summary.quarantined, summary.lines, recipe=recipe, hint=hint)
    return summary


class StageActor:
    """A stage inside a Ray actor: the model is loaded once, shards come and go."""

    def __init__(self, table: str, *, recipe: dict[str, Any], store: str) -> None:
        from x2i_platform.precompute.stages import (
            build_stage,  # loads diffusers and transformers, which only actors need
        )

        self.refusal = ""
        try:
            self.stage = build_stage(table, recipe=Recipe.model_validate(recipe), store_url=store)
        except X2IError as error:
            self.refusal = to_text(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute and commit one shard, and pass it on. Errors are passed on in the row: Ray would send a traceback."""
        if row["error"] or self.refusal:
            return {**row, "error": row["error"] or self.refusal}
        try:
            self.stage.run(int(row["shard"]))
        except X2IError as error:
            return {**row, "error": to_text(error)}
        return row


def _compute(recipe: Recipe, shards: list[int], *, store: str) -> Iterator[int]:
    """Send shards through all stages; yields each when its last table is committed."""
    # One block per shard: Ray would merge so few and small rows into one block for one actor.
    dataset = ray.data.from_items([{"shard": shard, "error": ""} for shard in shards], override_num_blocks=len(shards))
    for table in STAGE_ORDER:
        resources = getattr(recipe.run, table)
        dataset = dataset.map(
            StageActor,
            fn_constructor_args=(table,),
            fn_constructor_kwargs={"recipe": recipe.model_dump(mode="json"), "store": store},
            compute=ActorPoolStrategy(size=resources.actors),
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            ray_remote_args_fn=bounded_restarts,
        )
    try:
        for row in dataset.iter_rows():
            if row["error"]:
                raise from_text(row["error"])
            yield int(row["shard"])
    except RayError as error:
        raise worker_error(error) from None


def _pending(manifest: Manifest) -> dict[int, int]:
    """Planned shards that some table lacks, with their number of samples."""
    complete = set(manifest.complete_shards())
    return {shard: commit.samples for shard, commit in manifest.of(SAMPLES).items() if shard not in complete}


def _demand(recipe: Recipe) -> Demand:
    pools = [getattr(recipe.run, table) for table in FEATURE_TABLES]
    return Demand(
        cpus=sum(pool.actors * pool.num_cpus for pool in pools), gpus=sum(pool.actors * pool.num_gpus for pool in pools)
    )


def _summary(
    intake: Intake,
    manifest: Manifest,
    *,
    captions: Captions,
    store: str,
    computed: tuple[int, int],
    seconds: float,
) -> PrecomputeSummary:
    failed = len(intake.samples & manifest.quarantined())
    return PrecomputeSummary(
        store=store,
        lines=intake.lines,
        stored=len(intake.samples) - failed,
        duplicates=intake.duplicates,
        quarantined=len(intake.refused) + failed,
        not_read=captions.found.not_read,
        new_samples=intake.new_samples,
        shards=len(manifest.of(SAMPLES)),
        shards_computed=computed[0],
        samples_computed=computed[1],
        bytes=sum(commit.num_bytes for commit in manifest.commits),
        seconds=round(seconds, 2),
        samples_per_s=round(computed[1] / seconds, 2),
        manifest_digest=manifest.digest,
    )


def _require_few_refused(refused: int, lines: int, *, recipe: Recipe, hint: str) -> None:
    allowed = recipe.store.max_quarantine_share
    if refused > allowed * lines:
        raise InputError(
            f"{refused} of {lines} lines can't be used, above store.max_quarantine_share = {allowed:g}; {hint}"
        )
