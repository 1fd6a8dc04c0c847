"""A trained AlignNet between its MLLM and its DiT: prompts in, images out.

    prompt ──► MLLM ──► AlignNet ──► DiT + VAE ──► image

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
from torch import Tensor

from x2i_platform.config import GenerateConfig, Recipe, States
from x2i_platform.errors import WeightsError
from x2i_platform.models.alignnet import AlignNet, pad_states
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.model_folder import load_alignnet, read_recipe
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

    def __init__(self, recipe: Recipe, *, alignnet: AlignNet, device: str) -> None:
        """Load the MLLM and the DiT a recipe names. Raises WeightsError if AlignNet was made for others."""
        self.recipe, self.alignnet = recipe, alignnet
        dit, dims = dit_dims(recipe.teacher.model, revision=recipe.teacher.revision), alignnet.dims
        if (dit.joint_dim, dit.pooled_dim) != (dims.prompt_dim, dims.pooled_dim):
            raise WeightsError(
                f"AlignNet writes embeds of width {dims.prompt_dim} and {dims.pooled_dim}, the DiT of "
                f"'{recipe.teacher.model}' reads {dit.joint_dim} and {dit.pooled_dim}"
            )
        self.mllm = MLLM.load(recipe.mllm, device=device)
        found = (self.mllm.num_layers_plus_one, self.mllm.hidden_size)
        if found != (dims.num_layers, dims.hidden_size):
            raise WeightsError(
                f"AlignNet reads {dims.num_layers} layers of width {dims.hidden_size}, MLLM '{recipe.mllm.model}' "
                f"gives {found[0]} of width {found[1]}"
            )
        self.images = ImagePipeline.load(recipe.teacher, device=device)
        self._one_at_a_time = threading.Lock()

    @classmethod
    def load(cls, folder: Path, *, recipe: Recipe | None = None, device: str = "cpu") -> Self:
        """Load a model folder with its own recipe, or with another one derived from it.

        Raises WeightsError if the recipe or the weights are missing or don't fit.
        """
        alignnet = load_alignnet(folder, device=device).eval().requires_grad_(False)
        return cls(recipe or read_recipe(folder), alignnet=alignnet, device=device)

    @torch.inference_mode()
    def generate(self, requests: Sequence[ImageRequest]) -> list[Generated]:
        """One image a request, in order. Requests of equal settings share their denoising steps.

        Threads wait for one another: the pipeline's scheduler counts its steps. Raises PromptTooLong for a prompt of
        more tokens than the MLLM was asked to take, ConfigError for a size the VAE can't draw.
        """
        with self._one_at_a_time:
            return self._generate(requests)

    def _generate(self, requests: Sequence[ImageRequest]) -> list[Generated]:
        images: dict[int, Generated] = {}
        for settings in dict.fromkeys(request.settings for request in requests):
            chosen = [i for i, request in enumerate(requests) if request.settings == settings]
            made = self._generate_alike([requests[i] for i in chosen], settings=settings)
            images.update(zip(chosen, made, strict=True))
        return [images[i] for i in range(len(requests))]

    def _generate_alike(self, requests: Sequence[ImageRequest], *, settings: GenerateConfig) -> list[Generated]:
        if self.recipe.alignnet.padding == "none" and len(requests) > 1:
            # The DiT has no mask: beside longer prompts, a shorter one would get padding that it doesn't get alone.
            return [image for request in requests for image in self._generate_alike([request], settings=settings)]
        prompts, seeds = [request.prompt for request in requests], [request.seed for request in requests]
        answers: list[str | None]
        if settings.states == "prompt":
            conditioning, answers = self.condition(prompts, states="prompt"), [None] * len(prompts)
        else:
            found = self.mllm.answers(prompts, both=settings.states == "both", sampling=settings.answer, seeds=seeds)
            conditioning, answers = self._align([each.states_CSH for each in found]), [each.text for each in found]
        images = self.images.generate(
            conditioning.prompt_embeds_BTE, pooled_BP=conditioning.pooled_BP, seeds=seeds, settings=settings
        )
        return [Generated(image, answer) for image, answer in zip(images, answers, strict=True)]

    @torch.inference_mode()
    def condition(self, prompts: Sequence[str | Prompt], *, states: States) -> Conditioning:
        """The DiT's conditioning that AlignNet makes of prompts, or of greedy answers. Raises PromptTooLong."""
        pad_to = self.recipe.teacher.text_tokens if self.recipe.alignnet.padding == "reference" else None
        return self._align(self.mllm.encode(prompts, states=states, pad_to=pad_to))

    def _align(self, encoded: Sequence[Tensor]) -> Conditioning:
        """The conditioning that AlignNet makes of states `(C, S_i, H)`."""
        padding, text_tokens = self.recipe.alignnet.padding, self.recipe.teacher.text_tokens
        states_BCSH, mask_BS = pad_states(encoded, text_tokens=text_tokens, padding=padding)
        conditioning: Conditioning = self.alignnet(states_BCSH, mask_BS=mask_BS)
        return conditioning
