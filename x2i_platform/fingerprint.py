"""What makes two results interchangeable: the identities of the models and every setting that enters the numbers.

Invariant: where and how wide the work ran (`run`, `store`, folders, hosts) never enters.
"""

from __future__ import annotations

from typing import Any

from x2i_platform.config import Recipe
from x2i_platform.features.schema import MLLM, TARGETS, TEXT
from x2i_platform.models.weights import identity

_WHERE_FROM = {"model", "revision"}
"""Replaced by the identity of the weights, which is the same wherever they lie."""


def features(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Fingerprint of each feature table. Raises WeightsError if a model can't be found."""
    teacher = identity(recipe.teacher.model, revision=recipe.teacher.revision)
    mllm = identity(recipe.mllm.model, revision=recipe.mllm.revision)
    canvas = recipe.teacher.model_dump(mode="json", exclude=_WHERE_FROM)
    encoders = {key: canvas[key] for key in ("dtype", "text_tokens", "clip_tokens")}
    states = recipe.mllm.model_dump(mode="json", exclude=_WHERE_FROM | {"max_media_tokens"})
    if recipe.mllm.states == "prompt":
        del states["answer_tokens"]
    # Only `reference` padding stores what the MLLM computes at padded positions.
    padded = {"padded_to": recipe.teacher.text_tokens} if recipe.alignnet.padding == "reference" else {}
    return {
        TEXT: {"teacher": teacher, **encoders},
        MLLM: {"mllm": mllm, **states, **padded},
        # The canvas stands apart because both have `text_tokens`: those the teacher reads, and those kept.
        TARGETS: {"teacher": teacher, "canvas": canvas, **recipe.targets.model_dump(mode="json")},
    }


def training(recipe: Recipe, *, manifest_digest: str, store_fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Fingerprint of a training: the data, AlignNet's shape and how it is trained."""
    return {
        "manifest": manifest_digest,
        "features": store_fingerprint,
        "alignnet": recipe.alignnet.model_dump(mode="json"),
        "train": recipe.train.model_dump(mode="json"),
    }


def generation(recipe: Recipe) -> dict[str, Any]:
    """Fingerprint of what makes an image besides AlignNet, the prompt and the request's own settings."""
    return {
        "weights": [identity(part.model, revision=part.revision) for part in (recipe.teacher, recipe.mllm)],
        "teacher": recipe.teacher.model_dump(mode="json", exclude=_WHERE_FROM),
        "mllm": recipe.mllm.model_dump(mode="json", exclude=_WHERE_FROM),
        "padding": recipe.alignnet.padding,
    }
