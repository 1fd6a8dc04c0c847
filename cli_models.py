"""The group `x2i-platform models` of the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.named import load_recipe, model_folder, tracking_server
from x2i_platform import options as opt
from x2i_platform.console import show, show_markdown, show_rows
from x2i_platform.errors import RegistryError

models = typer.Typer()
AliasName = Annotated[str, typer.Option(help="Alias that moves.")]


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, tracking_uri: opt.TrackingUri = None, as_json: opt.JsonFlag = False) -> None:
    """Registered models and how they come and go; without a command, also the models whose sizes are known."""
    if context.invoked_subcommand:
        return
    from pipelines.listings import known_models, registered_models

    known, registered = known_models(), registered_models(tracking_server(tracking_uri))
    if as_json:
        show({"known": known, "registered": registered}, title="models", as_json=True)
        return
    show_rows(known, as_json=False)
    show_rows(registered, as_json=False)


@models.command("list")
def list_registered(tracking_uri: opt.TrackingUri = None, as_json: opt.JsonFlag = False) -> None:
    """List registered models: versions, aliases with the verdicts of their gates, date of the newest version."""
    from pipelines.listings import registered_rows

    show_rows(registered_rows(tracking_server(tracking_uri)), as_json=as_json)


@models.command("show")
def show_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As elsewhere, or NAME: its champion or candidate.")],
    card: Annotated[bool, typer.Option("--card", help="Show the model card.")] = False,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Show a version: aliases, gate, figures, and its way back to run, feature store and captions."""
    from pipelines.listings import describe_model, model_card

    uri = tracking_server(tracking_uri)
    found = describe_model(model, tracking_uri=uri)
    text = model_card(model, tracking_uri=uri) if card or as_json else None
    if as_json:
        show({**asdict(found), "card": text}, title=model, as_json=True)
        return
    if not card:
        shown = {**asdict(found), "aliases": ", ".join(found.aliases), "metrics": found.main_metrics()}
        show(shown, title=found.model, as_json=False)
        return
    if text is None:
        raise RegistryError(f"model {model!r} has no model card; registered versions have one")
    show_markdown(text)


@models.command()
def promote(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="models:/NAME/VERSION or models:/NAME@ALIAS.")],
    alias: AliasName = "champion",
    force: Annotated[bool, typer.Option("--force", help="Champion without a passed gate; a tag says so.")] = False,
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Move an alias to a version; champion only where the gate of evaluate has passed."""
    from x2i_platform.registry.promotion import promote as promote_model

    moved = promote_model(model, alias=alias, force=force, tracking_uri=tracking_server(tracking_uri))
    show(asdict(moved), title="promoted", as_json=as_json)


@models.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a registered model.")],
    alias: AliasName = "champion",
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Move an alias back to the version that held it before. Run again to go further back."""
    from x2i_platform.registry.promotion import rollback as rollback_model

    moved = rollback_model(name, alias=alias, tracking_uri=tracking_server(tracking_uri))
    show(asdict(moved), title="rolled back", as_json=as_json)


@models.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A released AlignNet: .bin, .pt or .safetensors.")],
    recipe: Annotated[str, typer.Option(help="Recipe that names its MLLM and its DiT.")],
    name: Annotated[str | None, typer.Option(help="Name of the registered model; default: the recipe's.")] = None,
    tracking_uri: opt.TrackingUri = None,
    overrides: opt.Overrides = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Register a released AlignNet as a version that generate and serve run."""
    from pipelines.models import import_model

    chosen = load_recipe(recipe, overrides)
    imported = import_model(path, chosen, name=name or chosen.name, tracking_uri=tracking_server(tracking_uri))
    show(asdict(imported), title="imported", as_json=as_json)


@models.command()
def export(
    model: opt.ModelName,
    out: Annotated[Path, typer.Option(help="File to write: .bin, or .pt for ComfyUI.")],
    layout: Annotated[
        str, typer.Option(help="'reference', as X2I's own scripts load it, or 'comfyui', as its nodes do.")
    ] = "reference",
    tracking_uri: opt.TrackingUri = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Write a model's AlignNet in a released layout."""
    from pipelines.models import export_model

    written = export_model(model_folder(model, tracking_uri), out, layout=layout)
    show({"file": str(written)}, title="exported", as_json=as_json)
