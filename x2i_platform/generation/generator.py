"""A trained AlignNet between its MLLM and its DiT: prompts in, images out.

    prompt ──► Encoder (MLLM ──► AlignNet) ──► conditioning ──► DiT + VAE ──► image

Invariant: an image depends on its own prompt, seed and settings, not on its neighbours in a batch, nor on what other
threads ask for at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from PIL import Image

from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.generation.encoder import Encoded, Encoder
from x2i_platform.models.image_pipeline import ImagePipeline, OnStep
from x2i_platform.models.prompts import Prompt


@dataclass(frozen=True)
class ImageRequest:
    """One image to make."""

    prompt: str | Prompt
    """A caption, which goes through the recipe's template, or a whole user turn."""
    seed: int
    """Of the noise, and of the MLLM's answer if it is drawn."""
    settings: GenerateConfig


class Generated(NamedTuple):
    """An image, and what the MLLM answered if its states conditioned it."""

    image: Image.Image
    answer: str | None = None


class Generator:
    """The loaded models."""

    def __init__(self, encoder: Encoder, images: ImagePipeline) -> None:
        self.encoder, self.images = encoder, images
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, folder: Path, *, recipe: Recipe | None = None, device: str = "cpu") -> Self:
        """Load a model folder with its own recipe, or with another one derived from it.

        Raises WeightsError if the recipe or the weights are missing or don't fit.
        """
        encoder = Encoder.load(folder, recipe=recipe, device=device)
        return cls(encoder, ImagePipeline.load(encoder.recipe.teacher, device=device))

    @property
    def recipe(self) -> Recipe:
        """The recipe that the models are run by."""
        return self.encoder.recipe

    @torch.inference_mode()
    def generate(self, requests: Sequence[ImageRequest]) -> list[Generated]:
        """One image a request, in order. Requests of equal settings share their denoising steps.

        Threads wait for one another: the pipeline's scheduler counts its steps. Raises PromptTooLong for a prompt of
        more tokens than the MLLM was asked to take, ConfigError for a size the VAE can't draw.
        """
        made: dict[int, Generated] = {}
        with self._one_at_a_time:
            for settings in dict.fromkeys(request.settings for request in requests):
                rows = [row for row, request in enumerate(requests) if request.settings == settings]
                prompts, seeds = [requests[row].prompt for row in rows], [requests[row].seed for row in rows]
                encoded = self.encoder.encode(prompts, seeds=seeds, settings=settings)
                images = draw(self.images, encoded, seeds=seeds, settings=settings)
                answers = [each.answer for each in encoded]
                made.update(zip(rows, map(Generated, images, answers), strict=True))
        return [made[row] for row in range(len(requests))]


def draw(
    images: ImagePipeline,
    encoded: Sequence[Encoded],
    *,
    seeds: Sequence[int],
    settings: GenerateConfig,
    on_step: OnStep | None = None,
) -> list[Image.Image]:
    """Draw an image for each conditioning, in order. Those of equally many text tokens share their denoising steps.

    `on_step` needs conditioning of one length. Raises ConfigError for a size the VAE can't draw.
    """
    drawn: dict[int, Image.Image] = {}
    lengths = [len(each.prompt_embeds_TE) for each in encoded]
    for length in dict.fromkeys(lengths):
        rows = [row for row, found in enumerate(lengths) if found == length]
        made = images.generate(
            torch.stack([encoded[row].prompt_embeds_TE for row in rows]),
            pooled_BP=torch.stack([encoded[row].pooled_P for row in rows]),
            seeds=[seeds[row] for row in rows],
            settings=settings,
            on_step=on_step,
        )
        drawn.update(zip(rows, made, strict=True))
    return [drawn[row] for row in range(len(encoded))]
