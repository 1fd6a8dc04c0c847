"""Imports released AlignNets as registered models, which `generate` runs, and exports them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from x2i_platform.config import Recipe
from x2i_platform.digests import digest
from x2i_platform.errors import ConfigError, WeightsError
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.model_folder import load_alignnet, save_model
from x2i_platform.models.released import SUFFIXES, Layout, export_released, from_state, import_checkpoint
from x2i_platform.models.weights import identity
from x2i_platform.recipes import override
from x2i_platform.registry import tracking
from x2i_platform.registry.artifacts import content_digest
from x2i_platform.registry.card import TrainingFacts, imported_card
from x2i_platform.registry.lineage import IMPORTED_TAG, version_tags
from x2i_platform.registry.models import ModelVersion, register, registered_as, require_name

EXPERIMENT = "x2i-import"
SIZES = ("num_layers", "hidden_size", "prompt_dim", "pooled_dim")


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    model: str
    version: int
    alias: str
    fusion: str
    t5_layers: int
    padding: str
    parameters: int


def import_model(path: Path, recipe: Recipe, *, name: str, tracking_uri: str) -> Imported:
    """Register a checkpoint in one of the released layouts, for a recipe's MLLM and DiT.

    Fusion, T5 stack and padding are taken from the checkpoint, everything else from the recipe. Raises WeightsError for
    a file that is no AlignNet, or that was made for other models.
    """
    require_name(name)
    alignnet, fitted = _fitted(path, recipe)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_model(alignnet, folder, recipe=fitted)
        version = registered_as(folder, name=name, tracking_uri=tracking_uri) or _register(
            folder, fitted, name=name, source=path.name, tracking_uri=tracking_uri
        )
    return Imported(
        model=version.uri,
        version=version.version,
        alias=f"models:/{version.name}@candidate",
        fusion=fitted.alignnet.fusion,
        t5_layers=fitted.alignnet.t5_layers,
        padding=fitted.alignnet.padding,
        parameters=sum(weight.numel() for weight in alignnet.parameters()),
    )


def export_model(folder: Path, target: Path, *, layout: str = "reference") -> Path:
    """Write a model's AlignNet in a released layout. Raises ConfigError for an unknown one, or for another ending."""
    if layout not in SUFFIXES:
        raise ConfigError(f"layout '{layout}' is unknown; there are {', '.join(SUFFIXES)}")
    chosen = cast(Layout, layout)
    if target.suffix != SUFFIXES[chosen]:
        raise ConfigError(f"'{target}' must end in {SUFFIXES[chosen]}, as what reads layout '{layout}' expects")
    return export_released(load_alignnet(folder), target, layout=chosen)


def _fitted(path: Path, recipe: Recipe) -> tuple[AlignNet, Recipe]:
    """The checkpoint's AlignNet, and the recipe with its shape. Raises WeightsError where sizes don't fit."""
    wanted = AlignNetDims.of(recipe)
    config, dims, state = import_checkpoint(path, num_layers=wanted.num_layers, text_tokens=wanted.text_tokens)
    for size in SIZES:
        if getattr(dims, size) != getattr(wanted, size):
            raise WeightsError(
                f"{path} has {size} = {getattr(dims, size)}, the models of recipe '{recipe.name}' need "
                f"{getattr(wanted, size)}"
            )
    heads = {"t5_heads": dims.t5_heads, "t5_head_dim": dims.t5_head_dim} if config.t5_layers else {}
    shape = config.model_copy(update=heads).model_dump(mode="json")
    fitted = override(recipe, [f"alignnet.{key}={json.dumps(value)}" for key, value in shape.items()])
    return from_state(fitted.alignnet, dims=dims, state=state, source=str(path)), fitted


def _register(folder: Path, recipe: Recipe, *, name: str, source: str, tracking_uri: str) -> ModelVersion:
    weights, settings = content_digest(folder), recipe.model_dump(mode="json")
    info = tracking.start_or_resume(
        tracking_uri=tracking_uri,
        experiment=EXPERIMENT,
        run_name=f"{name}-{weights[:12]}",
        key=digest([name, weights, settings]),
        params=settings,
        tags={"x2i.recipe": recipe.name, IMPORTED_TAG: source},
    )
    teacher, mllm = (identity(part.model, revision=part.revision) for part in (recipe.teacher, recipe.mllm))
    facts = TrainingFacts(teacher, mllm, manifest_digest="", captions=0)
    card = imported_card(recipe, name=name, source=source, facts=facts)
    version = register(folder, name=name, info=info, manifest_digest="", card=card, tags=version_tags(facts))
    tracking.finish(info)
    return version
