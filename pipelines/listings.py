"""What is there: shipped recipes, known models, registered models and all that is known of one. Loads no weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import RECIPES
from x2i_platform.models.catalog import MLLMS, TEACHERS
from x2i_platform.models.model_folder import CARD_FILE
from x2i_platform.recipes import load, shipped_names
from x2i_platform.registry.lineage import Sheet, card_of, folder_sheet, sheet
from x2i_platform.registry.listing import list_rows
from x2i_platform.registry.models import MINI_PREFIX, list_models, resolve


def shipped_recipes(*, wide: bool) -> list[dict[str, Any]]:
    """One row per recipe. With `wide` the names have columns of their own; a terminal has no room for that."""
    found = [load(name, shipped=RECIPES) for name in shipped_names(RECIPES)]
    if wide:
        return [
            {"recipe": r.name, "teacher": r.teacher.model, "mllm": r.mllm.model, "what": r.description} for r in found
        ]
    return [{"recipe": r.name, "what": f"{r.description}\n{r.teacher.model} + {r.mllm.model}"} for r in found]


def known_models() -> list[dict[str, Any]]:
    """Teachers and MLLMs that can be planned with without a download."""
    teachers = [
        {"model": name, "kind": "teacher", "parameters": entry.dit_parameters} for name, entry in TEACHERS.items()
    ]
    return teachers + [{"model": name, "kind": "MLLM", "parameters": entry.parameters} for name, entry in MLLMS.items()]


def registered_models(tracking_uri: str) -> list[dict[str, Any]]:
    """Models of an MLflow registry with their aliases. Raises RegistryError."""
    return [
        {"model": f"models:/{found.name}", "versions": len(found.versions), "aliases": dict(found.aliases)}
        for found in list_models(tracking_uri)
    ]


def registered_rows(tracking_uri: str) -> list[dict[str, Any]]:
    """The same with the verdicts of the versions that have an alias, and when the newest was made."""
    return [asdict(row) for row in list_rows(tracking_uri)]


def describe_model(model: str, *, tracking_uri: str) -> Sheet:
    """What is known of a registered version, a folder or a miniature. Raises RegistryError or WeightsError."""
    if not _is_folder(model):
        return sheet(model, tracking_uri=tracking_uri)
    return folder_sheet(model, folder=resolve(model, tracking_uri=tracking_uri))


def model_card(model: str, *, tracking_uri: str) -> str | None:
    """A model's card, Markdown; None where it has none. Raises RegistryError or WeightsError."""
    if not _is_folder(model):
        return card_of(model, tracking_uri=tracking_uri)
    path = resolve(model, tracking_uri=tracking_uri) / CARD_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _is_folder(model: str) -> bool:
    """Whether a model is files of this machine; a name without a slash may be a folder's or a registered model's."""
    return not model.startswith("models:") and (model.startswith(MINI_PREFIX) or "/" in model or Path(model).is_dir())
