"""What the registry knows of a version: its aliases and verdict, its way back to run, store and captions.

Invariants: nothing is guessed, a fact that an older version lacks is `unknown`; only small files are read, no weights.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import mlflow.artifacts
import mlflow.entities as entities
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from x2i_platform.errors import RegistryError, raising
from x2i_platform.models.model_folder import CARD_FILE, RECIPE_FILE
from x2i_platform.registry.artifacts import content_digest
from x2i_platform.registry.card import TrainingFacts
from x2i_platform.registry.connection import OUTSIDE, connect
from x2i_platform.registry.evaluations import CHAMPION, CURVES, REASON_TAG
from x2i_platform.registry.listing import NO_VERDICT, time_of, verdict_of
from x2i_platform.registry.models import (
    CONTENT_TAG,
    FINGERPRINT_TAG,
    HOW_TO_NAME,
    MODEL_NAME,
    MODEL_URI,
    aliases_of,
    find_version,
    require_database,
)
from x2i_platform.registry.promotion import FORCED_TAG
from x2i_platform.registry.tracking import MANIFEST_TAG, SYSTEM_PREFIX

UNKNOWN = "unknown"
TEACHER_TAG, MLLM_TAG, CAPTIONS_TAG, SOURCES_TAG = "x2i.teacher", "x2i.mllm", "x2i.captions", "x2i.caption_files"
IMPORTED_TAG = "x2i.imported_from"
MAX_SOURCES = 20
"""Files of captions that a version names; those that gave most come first."""
BARE_NAME = (CHAMPION, "candidate")
"""Aliases that a model's name alone stands for: the first that it has."""
MAIN_METRICS = (*CURVES, "accuracy", "difference")
"""Last parts of the figures that a terminal is shown; JSON has all."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen model that AlignNet was trained for: its name in the recipe, and what tells its weights apart."""

    model: str = UNKNOWN
    identity: str = UNKNOWN


@dataclass(frozen=True)
class Captions:
    """What a version was trained on. `files` are names with the number of captions that each gave."""

    trained_on: str = UNKNOWN
    held_out: str = UNKNOWN
    files: Mapping[str, int] | str = UNKNOWN


@dataclass(frozen=True)
class Lineage:
    """From a version to the captions: MLflow run, training fingerprint, feature store, its manifest, its captions."""

    run: str = UNKNOWN
    run_name: str = UNKNOWN
    experiment: str = UNKNOWN
    imported_from: str | None = None
    training_fingerprint: str = UNKNOWN
    store: str = UNKNOWN
    store_manifest: str = UNKNOWN
    captions: Captions = field(default_factory=Captions)


@dataclass(frozen=True)
class Sheet:
    """A version as `models show` tells it."""

    model: str
    aliases: tuple[str, ...] = ()
    gate: str = NO_VERDICT
    gate_reason: str | None = None
    forced: str | None = None
    """The alias that it got without a passed gate."""
    created: str = UNKNOWN
    teacher: BaseModel = BaseModel()
    mllm: BaseModel = BaseModel()
    lineage: Lineage = Lineage()
    metrics: Mapping[str, float] = field(default_factory=dict)
    content: str = UNKNOWN
    """SHA-256 of weights and config."""
    files: str = UNKNOWN

    def main_metrics(self) -> dict[str, float]:
        """The losses, and what evaluations judged right."""
        return {name: value for name, value in self.metrics.items() if name.rpartition("/")[2] in MAIN_METRICS}


def version_tags(facts: TrainingFacts) -> dict[str, str]:
    """The tags that keep a training's lineage on its version, so that no card has to be parsed for it."""
    names = Counter[str]()
    for source, captions in facts.sources.items():
        names[PurePath(source).name or source] += captions
    listed = dict(names.most_common(MAX_SOURCES))
    if len(names) > len(listed):
        listed[f"{len(names) - len(listed)} more"] = names.total() - sum(listed.values())
    tags = {TEACHER_TAG: facts.teacher_identity, MLLM_TAG: facts.mllm_identity}
    if facts.captions:
        tags[CAPTIONS_TAG] = str(facts.captions)
    return {**tags, **({SOURCES_TAG: json.dumps(listed, ensure_ascii=False)} if listed else {})}


def sheet(model: str, *, tracking_uri: str) -> Sheet:
    """All that is known of `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or of `NAME`, its champion or else candidate.

    Raises RegistryError if there is none.
    """
    client, version = _version(model, tracking_uri=tracking_uri)
    with raising(RegistryError, f"model {model!r} can't be read", OUTSIDE):
        registered = client.get_registered_model(version.name)
        run, tags = _run(client, version.run_id), version.tags
        recipe = _parsed(_text(client, version, RECIPE_FILE))
        return Sheet(
            model=f"models:/{version.name}/{version.version}",
            aliases=tuple(alias for alias, at in aliases_of(registered).items() if at == int(version.version)),
            gate=verdict_of(version),
            gate_reason=tags.get(REASON_TAG),
            forced=tags.get(FORCED_TAG),
            created=time_of(version.creation_timestamp),
            teacher=_base(recipe, "teacher", identity=tags.get(TEACHER_TAG)),
            mllm=_base(recipe, "mllm", identity=tags.get(MLLM_TAG)),
            lineage=_lineage(client, version, run),
            metrics={} if run is None else _metrics(run),
            content=tags.get(CONTENT_TAG, UNKNOWN),
            files=version.source,
        )


def folder_sheet(model: str, *, folder: Path) -> Sheet:
    """What a folder's own recipe says; the registry knows nothing of it."""
    path = folder / RECIPE_FILE
    recipe = _parsed(path.read_text(encoding="utf-8") if path.is_file() else None)
    return Sheet(
        model=model,
        teacher=_base(recipe, "teacher"),
        mllm=_base(recipe, "mllm"),
        content=content_digest(folder),
        files=str(folder),
    )


def card_of(model: str, *, tracking_uri: str) -> str | None:
    """A version's model card, Markdown; None if it has none. Raises RegistryError if there is no such version."""
    client, version = _version(model, tracking_uri=tracking_uri)
    with raising(RegistryError, f"the card of {model!r} can't be read", OUTSIDE):
        return _text(client, version, CARD_FILE)


def _version(model: str, *, tracking_uri: str) -> tuple[MlflowClient, ModelVersion]:
    named = MODEL_URI.fullmatch(model)
    name = named.group(1) if named else model.removeprefix("models:/")
    if not MODEL_NAME.fullmatch(name):
        raise RegistryError(f"model {model!r} is malformed; {HOW_TO_NAME}, or NAME")
    require_database(model, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with raising(RegistryError, f"model {model!r} can't be found", OUTSIDE):
        if named:
            return client, find_version(client, name, alias=named.group(2), number=named.group(3))
        latest = find_version(client, name, alias=None, number="latest")
        aliases = client.get_registered_model(name).aliases
        chosen = next((alias for alias in BARE_NAME if alias in aliases), None)
        return client, latest if chosen is None else find_version(client, name, alias=chosen, number=None)


def _lineage(client: MlflowClient, version: ModelVersion, run: entities.Run | None) -> Lineage:
    tags, params = version.tags, {} if run is None else run.data.params
    captions = Captions(
        trained_on=tags.get(CAPTIONS_TAG) or params.get("train_samples", UNKNOWN),
        held_out=params.get("held_out_samples", UNKNOWN),
        files=_sources(tags.get(SOURCES_TAG)),
    )
    known = Lineage(
        run=version.run_id or UNKNOWN,
        training_fingerprint=tags.get(FINGERPRINT_TAG) or UNKNOWN,
        store_manifest=tags.get(MANIFEST_TAG) or UNKNOWN,
        captions=captions,
    )
    if run is None:
        return known
    return replace(
        known,
        run_name=run.info.run_name or UNKNOWN,
        experiment=client.get_experiment(run.info.experiment_id).name,
        imported_from=run.data.tags.get(IMPORTED_TAG),
        store=_store(run),
    )


def _sources(tag: str | None) -> Mapping[str, int] | str:
    """Captions by the name of their file; the tag itself where somebody has edited it."""
    try:
        found = json.loads(tag) if tag else UNKNOWN
    except ValueError:
        return str(tag)
    return found if isinstance(found, dict) else str(found)


def _run(client: MlflowClient, run_id: str | None) -> entities.Run | None:
    """The run that made a version; None for a version without one, or whose run was deleted for good."""
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _store(run: entities.Run) -> str:
    """Where the feature store was when the training began."""
    for used in run.inputs.dataset_inputs if run.inputs else ():
        source: Any = json.loads(used.dataset.source)
        return str(source.get("uri", UNKNOWN))
    return UNKNOWN


def _text(client: MlflowClient, version: ModelVersion, name: str) -> str | None:
    """One of a version's files; None if it has none of that name."""
    source = client.get_model_version_download_uri(version.name, version.version)
    listed = mlflow.artifacts.list_artifacts(artifact_uri=source, tracking_uri=client.tracking_uri)
    if name not in {PurePath(file.path).name for file in listed}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=f"{source}/{name}", dst_path=folder, tracking_uri=client.tracking_uri
        )
        return Path(path).read_text(encoding="utf-8")


def _parsed(recipe: str | None) -> dict[str, Any]:
    """The recipe of a version or a folder; empty for an old one without it."""
    if recipe is None:
        return {}
    try:
        found = json.loads(recipe)
    except ValueError as error:
        raise RegistryError(f"{RECIPE_FILE} is no recipe: {error}") from error
    return found if isinstance(found, dict) else {}


def _base(recipe: Mapping[str, Any], section: str, *, identity: str | None = None) -> BaseModel:
    named = recipe.get(section)
    model = str(named.get("model", UNKNOWN)) if isinstance(named, dict) else UNKNOWN
    return BaseModel(model, identity or UNKNOWN)


def _metrics(run: entities.Run) -> dict[str, float]:
    """A run's figures, without the machine's load."""
    return {name: value for name, value in sorted(run.data.metrics.items()) if not name.startswith(SYSTEM_PREFIX)}
