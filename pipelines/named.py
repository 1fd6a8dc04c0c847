"""Looks up what a user names on the command line: a recipe, a tracking server, a model."""

from __future__ import annotations

from pathlib import Path

from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.recipes import load


def load_recipe(name: str, overrides: list[str] | None) -> Recipe:
    """A shipped recipe or a YAML file. Raises ConfigError."""
    return load(name, shipped=RECIPES, overrides=overrides or [])


def tracking_server(uri: str | None) -> str:
    """The tracking URI that was asked for, or the default one. Raises RegistryError if it can't be used."""
    from x2i_platform.registry.tracking import check_tracking_uri, default_tracking_uri

    return check_tracking_uri(uri or default_tracking_uri())


def pinned_model(model: str, tracking_uri: str | None) -> str:
    """`models:/NAME/VERSION` of what an alias names now; other models as they are. Raises RegistryError."""
    from x2i_platform.registry.evaluations import pin

    return pin(model, tracking_uri=tracking_server(tracking_uri))


def model_folder(model: str, tracking_uri: str | None) -> Path:
    """A model's files. Raises RegistryError or WeightsError."""
    from x2i_platform.registry.models import resolve

    return resolve(model, tracking_uri=tracking_server(tracking_uri))
