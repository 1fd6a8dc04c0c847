"""Generates images from conditioning with diffusers' FluxPipeline, without its text encoders.

Shape suffixes: B batch, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import diffusers
import torch
from PIL import Image
from torch import Tensor

from x2i_platform.config import GenerateConfig, TeacherConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.components import load_frozen, load_part
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.weights import locate


class ImagePipeline:
    """A DiT with its scheduler and its VAE."""

    def __init__(self, pipeline: diffusers.FluxPipeline) -> None:
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline

    @classmethod
    def load(cls, config: TeacherConfig, *, device: str = "cpu") -> Self:
        """Load the components. Raises WeightsError if one of `config.model` is missing or damaged."""
        folder = locate(config.model, revision=config.revision)
        transformer, vae = (
            load_frozen(kind, folder / name, dtype=config.dtype, device=device)
            for kind, name in (
                (diffusers.FluxTransformer2DModel, "transformer"),
                (diffusers.AutoencoderKL, "vae"),
            )
        )
        pipeline = diffusers.FluxPipeline(
            transformer=transformer,
            vae=vae,
            scheduler=load_part(diffusers.FlowMatchEulerDiscreteScheduler, folder / "scheduler"),
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
        )
        return cls(pipeline)

    def teacher(self, config: TeacherConfig) -> Teacher:
        """Return the same DiT as a `Teacher`. Raises ConfigError for a resolution that doesn't fit it."""
        return Teacher(self._pipeline.transformer, config=config, latent_scale=self._pipeline.vae_scale_factor)

    def generate(
        self, prompt_embeds_BTE: Tensor, *, pooled_BP: Tensor, seeds: Sequence[int], settings: GenerateConfig
    ) -> list[Image.Image]:
        """Generate one RGB image of `settings.width` x `settings.height` pixels per prompt.

        Prompts may have any number of text tokens. Each image's noise is drawn from its own seed on the CPU, so it is
        the same on every device and in every batch.
        """
        unit = 2 * self._pipeline.vae_scale_factor
        if settings.width % unit or settings.height % unit:
            raise ConfigError(f"size {settings.width}x{settings.height}: this model draws multiples of {unit} pixels")
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        images = self._pipeline(
            prompt_embeds=prompt_embeds_BTE.to(device, dtype),
            pooled_prompt_embeds=pooled_BP.to(device, dtype),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance,
        ).images
        return list(images)
