"""What an evaluation stores in the registry: its report and figures in the model's run, and the champion.

Invariant: an evaluation moves `champion` only if its gate holds, and only to the version that was evaluated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import mlflow.entities as entities
from mlflow import MlflowClient

from x2i_platform.errors import RegistryError, raising
from x2i_platform.registry.aliases import move
from x2i_platform.registry.connection import OUTSIDE, connect, sqlite_file
from x2i_platform.registry.models import MODEL_URI, find_version

CHAMPION = "champion"
ARTIFACTS = "evaluation"
GATE_TAG, REASON_TAG = "x2i.gate", "x2i.gate_reason"
CURVES = ("kl_per_token", "validation_kl_per_token")
REPORT_SUFFIXES = (".html", ".json", ".jsonl")
"""Endings of a report's own files; the folder may hold others, such as MLflow's database."""


def pin(model: str, *, tracking_uri: str) -> str:
    """`models:/NAME/VERSION` of the version that an alias names now; other models are returned as they are.

    An evaluation takes hours, and a training may move the alias meanwhile. Raises RegistryError.
    """
    database = sqlite_file(tracking_uri)
    if database is not None and not database.exists():
        return model  # and nothing is created, so that `resolve` can say that there is none
    found = _registered(model, tracking_uri=tracking_uri)
    return model if found is None else f"models:/{found[1].name}/{found[1].version}"


def log_evaluation(model: str, *, folder: Path, metrics: Mapping[str, float], tracking_uri: str) -> str | None:
    """Log a report and its figures to the run that made a registered model. Returns the run's id, or None for a plain
    folder.

    The report replaces an earlier one of the same folder name. `model` must be pinned, or the run may be another
    version's. Raises RegistryError.
    """
    found = _registered(model, tracking_uri=tracking_uri)
    if found is None:
        return None
    client, version = found
    target = f"{ARTIFACTS}/{folder.resolve().name}"
    with raising(RegistryError, f"the evaluation of {model!r} can't be logged", OUTSIDE):
        for path in sorted(folder.iterdir()):
            if path.suffix in REPORT_SUFFIXES:
                client.log_artifact(version.run_id, str(path), target)
            elif path.name == "sheets":
                client.log_artifacts(version.run_id, str(path), f"{target}/{path.name}")
        # MLflow shows the value with the latest time; among equal times the largest, which may be an older one.
        now_ms = int(time.time() * 1000)
        values = [entities.Metric(name, value, now_ms, 0) for name, value in metrics.items()]
        for start in range(0, len(values), 500):
            client.log_batch(version.run_id, metrics=values[start : start + 500])
    return str(version.run_id)


def record_gate(model: str, *, holds: bool, reason: str, tracking_uri: str) -> str | None:
    """Write a gate's verdict to the version as tags; if it holds, make the version champion and return its URI.

    A champion whose gate fails stays champion, tagged `failed`, until another version's gate holds. Returns None then,
    and for a plain folder. Raises RegistryError.
    """
    found = _registered(model, tracking_uri=tracking_uri)
    if found is None:
        return None
    client, version = found
    with raising(RegistryError, f"the gate's verdict on {model!r} can't be recorded", OUTSIDE):
        for tag, value in ((GATE_TAG, "passed" if holds else "failed"), (REASON_TAG, reason)):
            client.set_model_version_tag(version.name, version.version, tag, value)
        if not holds:
            return None
        move(client, version.name, alias=CHAMPION, version=int(version.version))
    return f"models:/{version.name}/{version.version}"


def learning_curves(model: str, *, tracking_uri: str) -> dict[str, list[tuple[int, float]]]:
    """The losses of the run that made a registered model, by step; empty for a plain folder. Raises RegistryError."""
    found = _registered(model, tracking_uri=tracking_uri)
    if found is None:
        return {}
    client, version = found
    with raising(RegistryError, f"the curves of {model!r} can't be read", OUTSIDE):
        known = client.get_run(version.run_id).data.metrics
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(version.run_id, name)]
            for name in known
            if name in CURVES
        }


def _registered(model: str, *, tracking_uri: str) -> tuple[MlflowClient, entities.model_registry.ModelVersion] | None:
    named = MODEL_URI.fullmatch(model)
    if named is None:
        return None
    client = connect(tracking_uri)
    with raising(RegistryError, f"model {model!r} can't be found", OUTSIDE):
        return client, find_version(client, named.group(1), alias=named.group(2), number=named.group(3))
