"""A model against its teacher: attention KL on captions held out of its training, and the teacher's own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image

from x2i_platform.config import Recipe
from x2i_platform.distill.data import Collate, FeatureDataset, split
from x2i_platform.distill.validation import validation_losses
from x2i_platform.errors import TrainingError
from x2i_platform.features.store import FeatureStore
from x2i_platform.models.alignnet import AlignNet
from x2i_platform.models.devices import choose_device
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.released import load_alignnet
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.serving.generator import read_recipe


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


def teacher_images(recipe: Recipe, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Image]:
    """What the teacher draws for some prompts, from its own text encoders."""
    device = choose_device(recipe.run.generate.num_gpus)
    conditioning = TextEncoders.load(recipe.teacher, device=device).encode(prompts)
    return ImagePipeline.load(recipe.teacher, device=device).generate(
        conditioning.prompt_embeds_BTE, pooled_BP=conditioning.pooled_BP, seeds=seeds, settings=recipe.generate
    )
