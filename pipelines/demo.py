"""The whole flow in miniature: precompute → train → register → evaluate → generate, on the embedded models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipelines import RECIPES, distill, generate, precompute
from pipelines.training_job import plan
from x2i_platform.config import Recipe
from x2i_platform.distill.data import Collate, FeatureDataset, split
from x2i_platform.distill.validation import validation_losses
from x2i_platform.errors import TrainingError
from x2i_platform.evaluation.contact_sheet import contact_sheet
from x2i_platform.features.store import FeatureStore
from x2i_platform.mini import captions_path
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.devices import choose_device
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.released import load_alignnet
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load
from x2i_platform.registry.models import resolve
from x2i_platform.registry.tracking import check_tracking_uri
from x2i_platform.serving.generator import read_recipe

MODEL = "mini-demo"
SHEET_PROMPTS = 8
Bar = Callable[..., AbstractContextManager[Callable[..., None]]]
"""Makes a progress bar: `bar(title, unit=...)`."""


@dataclass(frozen=True)
class Report:
    """Where everything is, and how close the student came."""

    feature_store: str
    captions: int
    mlflow_database: str
    registered_model: str
    held_out_captions: int
    kl_per_token_untrained: float
    kl_per_token_trained: float
    images: str
    contact_sheet: str


def run(folder: Path, *, overrides: Sequence[str], bar: Bar) -> Report:
    """Run every step into a folder; each continues where an earlier demo stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load("mini", shipped=RECIPES, overrides=overrides)
    store, tracking_uri = str(folder / "store"), check_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
    captions = precompute.Captions(str(captions_path()))
    with bar("precompute", unit="captions") as progress:
        stored = precompute.run(recipe, captions, store=store, address=None, on_progress=progress)
    destination = distill.Destination(MODEL, tracking_uri, str(folder / "runs"))
    with bar("train", unit="steps") as progress:
        trained = distill.run(plan(recipe, store=store), destination, address=None, on_progress=progress)
    model = resolve(trained.alias, tracking_uri=tracking_uri)
    loss = held_out_loss(model, store=store)
    with bar("generate", unit="images") as progress:
        sheet = _sheet(recipe, model, folder=folder, progress=progress)
    return Report(
        feature_store=store,
        captions=stored.stored,
        mlflow_database=str(folder / "mlflow.db"),
        registered_model=trained.model,
        held_out_captions=loss.captions,
        kl_per_token_untrained=loss.untrained,
        kl_per_token_trained=loss.trained,
        images=str(folder / "images"),
        contact_sheet=str(sheet),
    )


def _sheet(recipe: Recipe, model: Path, *, folder: Path, progress: Callable[..., None]) -> Path:
    """Teacher beside student, the same captions and seeds."""
    prompts = captions_path().read_text(encoding="utf-8").splitlines()[:: 320 // SHEET_PROMPTS][:SHEET_PROMPTS]
    requests = folder / "requests.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(prompts)]
    requests.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    generate.run(model, requests=str(requests), out=str(folder / "images"), on_progress=progress)
    index = (folder / "images" / generate.INDEX_FILE).read_text(encoding="utf-8").splitlines()
    student = [Image.open(folder / "images" / json.loads(line)["file"]) for line in index]
    teacher = teacher_images(recipe, prompts, seeds=range(len(prompts)))
    path = folder / "contact_sheet.png"
    rows = [(prompt, pair) for prompt, *pair in zip(prompts, teacher, student, strict=True)]
    contact_sheet(rows, columns=["teacher", "student"]).save(path)
    return path


@dataclass(frozen=True)
class LossReport:
    """Mean KL per token, in nats, over the held-out captions of a store."""

    captions: int
    untrained: float
    """Of an AlignNet with the recipe's initial weights."""
    trained: float


def held_out_loss(folder: Path, *, store: str) -> LossReport:
    """Compare a model folder with its own untrained beginning. Raises TrainingError if nothing was held out."""
    recipe = read_recipe(folder)
    device = choose_device(recipe.run.generate.num_gpus)
    features = FeatureStore.open(store)
    shards = features.manifest().complete_shards()
    _, held_out = split(features, shards, validation_share=recipe.train.validation_share)
    if not held_out:
        raise TrainingError(f"store '{store}' has no held-out caption; set train.validation_share above 0")
    teacher = Teacher.load(recipe.teacher, device=device)
    trained = load_alignnet(folder, device=device).eval()
    untrained = AlignNet(trained.config, dims=trained.dims).to(device)
    collate, dataset = Collate(recipe.alignnet.padding, text_tokens=recipe.teacher.text_tokens), FeatureDataset(store)
    batches = [collate([dataset[place]]).to(device) for place in held_out]
    before, after = (
        validation_losses(student, teacher=teacher, batches=batches, config=recipe.train)
        for student in (untrained, trained)
    )
    return LossReport(len(held_out), sum(before) / len(before), sum(after) / len(after))


def teacher_images(recipe: Recipe, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Image.Image]:
    """What the teacher draws for some prompts, from its own text encoders."""
    device = choose_device(recipe.run.generate.num_gpus)
    conditioning = TextEncoders.load(recipe.teacher, device=device).encode(prompts)
    return ImagePipeline.load(recipe.teacher, device=device).generate(
        conditioning.prompt_embeds_BTE, pooled_BP=conditioning.pooled_BP, seeds=seeds, settings=recipe.generate
    )
