"""The model card: from a recipe and the figures of a training to Markdown with the front matter that hubs read.

Invariants: a pure function of its arguments; a folder's path is shown by its last name only, for cards are published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

import yaml

from x2i_platform.config import Recipe
from x2i_platform.models.catalog import MLLMS, TEACHERS

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class TrainingFacts:
    """What a card says about a training beyond its recipe. `figures` are free: steps, seconds, workers, device, …"""

    teacher_identity: str
    mllm_identity: str
    manifest_digest: str
    captions: int
    figures: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def model_card(recipe: Recipe, *, name: str, fingerprint: str, facts: TrainingFacts) -> str:
    """The Markdown card of an AlignNet trained by `recipe` and registered as `name`."""
    sections = (
        _front_matter(recipe, facts),
        _summary(recipe, name=name),
        _base_models(recipe, facts),
        _recipe(recipe, fingerprint=fingerprint),
        f"## Data\n\n{facts.captions:,} captions, no images. Manifest of the feature store: `{facts.manifest_digest}`.",
        "## Training\n\n" + _table(("Figure", "Value"), {**_warm_start(recipe), **facts.figures}),
        "## Metrics\n\n" + _table(("Metric", "Value"), facts.metrics),
        _usage(name),
        _licence_remarks(recipe),
        _limits(recipe),
    )
    return "\n\n".join(sections) + "\n"


def imported_card(recipe: Recipe, *, name: str, source: str, facts: TrainingFacts) -> str:
    """The card of an AlignNet that was trained elsewhere and came as the file `source`."""
    net = recipe.alignnet
    what = (
        f"# {name}\n\nAn X2I AlignNet, imported from `{source}`: it maps the hidden states of all layers of "
        f"`{_shown(recipe.mllm.model)}` to the conditioning of `{_shown(recipe.teacher.model)}`. Fusion {net.fusion}, "
        f"{net.t5_layers} layers of the T5 stack, padding {net.padding}. How it was trained is not known here."
    )
    parts = (_front_matter(recipe, facts), what, _base_models(recipe, facts), _usage(name), _licence_remarks(recipe))
    return "\n\n".join(parts) + "\n"


def _front_matter(recipe: Recipe, facts: TrainingFacts) -> str:
    identities = {recipe.teacher.model: facts.teacher_identity, recipe.mllm.model: facts.mllm_identity}
    permissive = all(_licence(model) in ("apache-2.0", "mit") for model in identities)
    keys: dict[str, object] = {
        "license": "apache-2.0" if permissive else "other",
        # The identity of a folder is a digest, that of a hub model its id and commit.
        "base_model": [model for model, who in identities.items() if who.startswith(f"{model}@")],
        "pipeline_tag": "text-to-image",
        "library_name": "x2i-platform",
        "tags": ["x2i", "alignnet", "attention-distillation"],
    }
    if not permissive:
        keys["license_name"] = "see-base-models"
    text = yaml.safe_dump({key: value for key, value in keys.items() if value}, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _summary(recipe: Recipe, *, name: str) -> str:
    return (
        f"# {name}\n\n"
        f"An X2I AlignNet: it maps the hidden states of all layers of `{_shown(recipe.mllm.model)}` to the prompt "
        f"embeddings and the pooled vector that condition `{_shown(recipe.teacher.model)}`, in place of that model's "
        "own text encoders. Both models stay frozen and are not part of these files. It was trained by attention "
        "distillation: the attention outputs of the diffusion transformer under AlignNet's conditioning follow those "
        f"under the text encoders'. Recipe `{recipe.name}`{_described(recipe.description)}"
    )


def _base_models(recipe: Recipe, facts: TrainingFacts) -> str:
    rows = (
        ("Teacher", recipe.teacher.model, recipe.teacher.revision, facts.teacher_identity),
        ("MLLM", recipe.mllm.model, recipe.mllm.revision, facts.mllm_identity),
    )
    lines = [
        f"| {role} | `{_shown(model)}` | {revision or 'default'} | `{who}` |" for role, model, revision, who in rows
    ]
    return "## Base models\n\n| Role | Model | Revision | Identity of the weights |\n|---|---|---|---|\n" + "\n".join(
        lines
    )


def _recipe(recipe: Recipe, *, fingerprint: str) -> str:
    train, targets, teacher, net = recipe.train, recipe.targets, recipe.teacher, recipe.alignnet
    noise_levels = " · ".join(map(str, teacher.sigmas))
    rows = {
        "Layer fusion, T5 layers, padding": f"{net.fusion}, {net.t5_layers}, {net.padding}",
        "Canvas, guidance, noise levels": f"{teacher.resolution} px, {teacher.guidance}, {noise_levels}",
        "Taps": targets.taps if isinstance(targets.taps, str) else ", ".join(targets.taps),
        "Tokens a tap (image, text), codec": f"{targets.image_tokens}, {targets.text_tokens}, {targets.codec}",
        "Steps, batch size": f"{train.steps}, {train.batch_size}",
        "Learning rate, warm-up, weight decay": f"{train.lr}, {train.warmup_steps} steps, {train.weight_decay}",
        "Loss": f"KL {train.direction.replace('_', ' || ')}, temperature {train.temperature}",
        "EMA decay": train.ema or "none",
        "Fingerprint": fingerprint,
    }
    template = f"User turn of the MLLM, as a format string:\n\n```text\n{recipe.mllm.template}\n```"
    return f"## Recipe\n\n{_table(('Setting', 'Value'), rows)}\n\n{template}"


def _warm_start(recipe: Recipe) -> dict[str, object]:
    train = recipe.train
    if not train.warm_start_steps:
        return {}
    return {"Warm start": f"{train.warm_start_steps} steps onto the text encoders' outputs, rate {train.warm_start_lr}"}


def _usage(name: str) -> str:
    return (
        "## Use\n\n```shell\n"
        f"x2i-platform generate models:/{name}@candidate --requests requests.jsonl --out images/\n"
        f"x2i-platform serve models:/{name}@candidate --port 8000\n"
        "```\n\nA folder with these files takes the place of the `models:/` URI. The weights are safetensors; nothing "
        "here is pickled."
    )


def _licence_remarks(recipe: Recipe) -> str:
    models = (recipe.teacher.model, recipe.mllm.model)
    lines = [f"- `{_shown(model)}`: {_licence(model) or 'see its own licence'}" for model in models]
    return (
        "## Licences\n\nAlignNet is useful only together with its base models, whose licences govern them and may "
        "govern what is made with them; read them before any use:\n\n" + "\n".join(lines)
    )


def _limits(recipe: Recipe) -> str:
    return (
        "## Limits\n\n"
        "- It fits exactly the two base models above; with other weights its outputs mean nothing.\n"
        f"- It was trained at one noise level and a {recipe.teacher.resolution} px canvas, on captions alone.\n"
        f"- Prompts above {recipe.mllm.max_tokens} MLLM tokens are refused.\n"
        "- It inherits what its base models get wrong: biases, counting, spelling, and languages they read poorly.\n"
        "- Losses measure closeness to the teacher, not the quality of images; judge images before you rely on them."
    )


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    if not rows:
        return "None recorded."
    lines = [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines])


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")


def _described(description: str) -> str:
    return f": {description.strip().rstrip('.')}." if description.strip() else "."


def _is_hub_id(model: str) -> bool:
    return HUB_ID.fullmatch(model) is not None


def _shown(model: str) -> str:
    return model if _is_hub_id(model) or model.startswith("mini:") else PurePath(model).name


def _licence(model: str) -> str | None:
    entry = TEACHERS.get(model) or MLLMS.get(model)
    return entry.licence if entry else None
