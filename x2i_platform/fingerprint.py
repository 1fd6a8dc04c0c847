"""Fingerprints: two results with the same one are interchangeable. They hold the identities of the models and every
setting that changes the numbers.

Invariant: where and how wide the work ran (`run`, `store`, folders, hosts) is never in them.
"""

from __future__ import annotations

from typing import Any

from x2i_platform.config import MediaConfig, Recipe, TeacherConfig
from x2i_platform.features.schema import MLLM, TARGETS, TEXT
from x2i_platform.models.weights import identity

_WHERE_FROM = {"model", "revision"}
"""Fields that are replaced by the identity of the weights, which is the same wherever they lie."""


def features(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Fingerprint of each feature table. Raises WeightsError if a model can't be found."""
    teacher = identity(recipe.teacher.model, revision=recipe.teacher.revision)
    mllm = identity(recipe.mllm.model, revision=recipe.mllm.revision)
    canvas = _teacher(recipe.teacher)
    encoders = {key: canvas[key] for key in ("dtype", "text_tokens", "clip_tokens")}
    states = recipe.mllm.model_dump(mode="json", exclude=_WHERE_FROM | {"max_media_tokens"})
    if recipe.mllm.states == "prompt":
        del states["answer_tokens"]
    # Only `reference` padding stores what the MLLM computes at padded positions.
    padded = {"padded_to": recipe.teacher.text_tokens} if recipe.alignnet.padding == "reference" else {}
    hidden_states = {"mllm": mllm, **states, **padded}
    # The teacher of an answer reads it.
    read = {} if recipe.mllm.states == "prompt" else {"answers": hidden_states}
    return {
        TEXT: {"teacher": teacher, **encoders, **read},
        MLLM: hidden_states,
        # The canvas is a key of its own because both have `text_tokens`: those the teacher reads, and those kept.
        TARGETS: {"teacher": teacher, "canvas": canvas, **recipe.targets.model_dump(mode="json"), **read},
    }


def training(recipe: Recipe, *, manifest_digest: str, store_fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Fingerprint of a training: the data, AlignNet's shape and the training's settings.

    Fields of a warm start and of head widths are left out if unused, so that older trainings keep their fingerprints.
    """
    heads = {"t5_head_dim"} if recipe.alignnet.t5_head_dim is None else set()
    unused = set() if recipe.train.warm_start_steps else {"warm_start_steps", "warm_start_lr"}
    return {
        "manifest": manifest_digest,
        "features": store_fingerprint,
        "alignnet": recipe.alignnet.model_dump(mode="json", exclude=heads),
        "train": recipe.train.model_dump(mode="json", exclude=unused),
    }


def generation(recipe: Recipe) -> dict[str, Any]:
    """Fingerprint of generation: everything that decides an image besides AlignNet, the prompt and the request's
    settings.
    """
    # The default is left out: models from before there was a choice keep their fingerprints.
    sound = {"audio_sampling_rate"} if recipe.media.audio_sampling_rate == MediaConfig().audio_sampling_rate else set()
    pictures = recipe.media.model_dump(mode="json", exclude=sound)
    media = {} if recipe.media == MediaConfig() else {"media": pictures}
    return {
        "weights": [identity(part.model, revision=part.revision) for part in (recipe.teacher, recipe.mllm)],
        "teacher": _teacher(recipe.teacher),
        "mllm": recipe.mllm.model_dump(mode="json", exclude=_WHERE_FROM),
        **media,
        "padding": recipe.alignnet.padding,
    }


def loaded_models(recipe: Recipe) -> dict[str, Any]:
    """Fingerprint of what is loaded to generate besides AlignNet: the MLLM, as it is asked, and the DiT."""
    trained_on = {"states"}
    return {
        "mllm": {
            "weights": identity(recipe.mllm.model, revision=recipe.mllm.revision),
            **recipe.mllm.model_dump(mode="json", exclude=_WHERE_FROM | trained_on),
        },
        "teacher": {
            "weights": identity(recipe.teacher.model, revision=recipe.teacher.revision),
            **recipe.teacher.model_dump(mode="json", include={"dtype", "text_tokens"}),
        },
    }


def _teacher(config: TeacherConfig) -> dict[str, Any]:
    """The default of `canvas` is left out: every store from before that choice was made with it."""
    default = {"canvas"} if config.canvas == "noise" else set()
    return config.model_dump(mode="json", exclude=_WHERE_FROM | default)
