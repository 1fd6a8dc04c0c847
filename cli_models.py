"""The group `x2i-platform models` of the command line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipelines.named import load_recipe, model_folder, tracking_server
from x2i_platform import options as opt
from x2i_platform.console import show, show_rows

models = typer.Typer()


@models.callback(invoke_without_command=True)
def list_models(context: typer.Context, tracking_uri: opt.TrackingUri = None, as_json: opt.JsonFlag = False) -> None:
    """List the models whose sizes are known, and those registered in MLflow; or import and export one."""
    if context.invoked_subcommand:
        return
    from pipelines.listings import known_models, registered_models

    known, registered = known_models(), registered_models(tracking_server(tracking_uri))
    if as_json:
        show({"known": known, "registered": registered}, title="models", as_json=True)
        return
    show_rows(known, as_json=False)
    show_rows(registered, as_json=False)


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
