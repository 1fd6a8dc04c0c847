"""Rows for tables of shipped recipes, known models and registered models."""

from __future__ import annotations

from typing import Any

from pipelines import RECIPES
from x2i_platform.models.catalog import MLLMS, TEACHERS
from x2i_platform.recipes import load, shipped_names
from x2i_platform.registry.models import list_models


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
