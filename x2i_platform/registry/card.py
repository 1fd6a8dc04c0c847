"""The model card: a recipe and the figures of a training become Markdown with the front matter that hubs read.

Invariants: a pure function of its arguments; of a folder's path only the last name is shown, because cards are
published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from huggingface_hub import ModelCard, ModelCardData

from x2i_platform.config import Recipe
from x2i_platform.models.catalog import MLLMS, TEACHERS

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
PERMISSIVE = ("apache-2.0", "mit")


@dataclass(frozen=True)
class TrainingFacts:
    """What a card says about a training beyond its recipe. `figures` are free: steps, seconds, workers, device, …"""

    teacher_identity: str
    mllm_identity: str
    manifest_digest: str
    captions: int
    figures: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, int] = field(default_factory=dict)
    """Captions by the file or URL that they came from; no card shows it."""


def model_card(recipe: Recipe, *, name: str, fingerprint: str, facts: TrainingFacts) -> str:
    """The Markdown card of an AlignNet trained by `recipe` and registered as `name`."""
    return _card(
        recipe,
        facts,
        name=name,
        settings=_table(("Setting", "Value"), {**_settings(recipe), "Fingerprint": fingerprint}),
        figures=_table(("Figure", "Value"), {**_warm_start(recipe), **facts.figures}),
        metrics=_table(("Metric", "Value"), facts.metrics),
    )


def imported_card(recipe: Recipe, *, name: str, source: str, facts: TrainingFacts) -> str:
    """The card of an AlignNet that was trained elsewhere and came as the file `source`."""
    return _card(recipe, facts, name=name, source=source)


def _card(recipe: Recipe, facts: TrainingFacts, **values: str) -> str:
    identities = {recipe.teacher.model: facts.teacher_identity, recipe.mllm.model: facts.mllm_identity}
    licences = {model: _licence(model) for model in identities}
    permissive = all(licence in PERMISSIVE for licence in licences.values())
    # The identity of a folder is a digest, that of a hub model its id and commit.
    on_the_hub = [model for model, identity in identities.items() if identity.startswith(f"{model}@")]
    head = ModelCardData(
        license="apache-2.0" if permissive else "other",
        license_name=None if permissive else "see-base-models",
        base_model=on_the_hub or None,
        pipeline_tag="text-to-image",
        library_name="x2i-platform",
        tags=["x2i", "alignnet", "attention-distillation"],
    )
    card = ModelCard.from_template(
        head,
        template_path=str(TEMPLATE),
        recipe=recipe,
        net=recipe.alignnet,
        facts=facts,
        teacher=_shown(recipe.teacher.model),
        mllm=_shown(recipe.mllm.model),
        teacher_licence=licences[recipe.teacher.model],
        mllm_licence=licences[recipe.mllm.model],
        **values,
    )
    return f"{str(card).rstrip()}\n"


def _settings(recipe: Recipe) -> dict[str, object]:
    train, targets, teacher, net = recipe.train, recipe.targets, recipe.teacher, recipe.alignnet
    noise_levels = " · ".join(map(str, teacher.sigmas))
    return {
        "Layer fusion, T5 layers, padding": f"{net.fusion}, {net.t5_layers}, {net.padding}",
        "Canvas, guidance, noise levels": f"{teacher.resolution} px, {teacher.guidance}, {noise_levels}",
        "Taps": targets.taps if isinstance(targets.taps, str) else ", ".join(targets.taps),
        "Tokens a tap (image, text), codec": f"{targets.image_tokens}, {targets.text_tokens}, {targets.codec}",
        "Steps, batch size": f"{train.steps}, {train.batch_size}",
        "Learning rate, warm-up, weight decay": f"{train.lr}, {train.warmup_steps} steps, {train.weight_decay}",
        "Loss": f"KL {train.direction.replace('_', ' || ')}, temperature {train.temperature}",
        "EMA decay": train.ema or "none",
    }


def _warm_start(recipe: Recipe) -> dict[str, object]:
    train = recipe.train
    if not train.warm_start_steps:
        return {}
    return {"Warm start": f"{train.warm_start_steps} steps onto the text encoders' outputs, rate {train.warm_start_lr}"}


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    if not rows:
        return "None recorded."
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")


def _shown(model: str) -> str:
    return model if HUB_ID.fullmatch(model) or model.startswith("mini:") else PurePath(model).name


def _licence(model: str) -> str | None:
    entry = TEACHERS.get(model) or MLLMS.get(model)
    return entry.licence if entry else None
