"""Generates images from conditioning with the denoising loop of diffusers' own pipeline, without its text encoders.

Shape suffixes: B batch, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import diffusers
import torch
from PIL import Image
from torch import Tensor

from x2i_platform.config import GenerateConfig, TeacherConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.components import load_frozen, load_part, pipeline_architecture
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dits import architecture_of
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders, tokenizer_of
from x2i_platform.models.weights import locate

Preview = Callable[[int], Image.Image]
"""Draws what the image of one row of the batch would be by the last step's estimate."""
OnStep = Callable[[int, int, Preview], None]
"""Called after each denoising step but the last with its number, from 1, their count, and a preview. It may raise to
end the batch."""


class ImagePipeline:
    """A DiT with its scheduler and its VAE."""

    def __init__(self, pipeline: Any, *, config: TeacherConfig | None = None) -> None:
        """`config` says where the text encoders are, which classifier-free guidance needs once."""
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline
        self._architecture = architecture_of(pipeline.transformer)
        self._config = config
        self._empty: Conditioning | None = None

    @classmethod
    def load(cls, config: TeacherConfig, *, device: str = "cpu") -> Self:
        """Load the components. Raises WeightsError if one of `config.model` is missing or damaged."""
        folder = locate(config.model, revision=config.revision)
        architecture = pipeline_architecture(folder)
        transformer, vae = (
            load_frozen(kind, folder / name, dtype=config.dtype, device=device)
            for kind, name in (
                (getattr(diffusers, architecture.transformer), "transformer"),
                (diffusers.AutoencoderKL, "vae"),
            )
        )
        encoders = (*architecture.clips, architecture.t5)
        pipeline = getattr(diffusers, architecture.pipeline)(
            transformer=transformer,
            vae=vae,
            scheduler=load_part(diffusers.FlowMatchEulerDiscreteScheduler, folder / "scheduler"),
            **dict.fromkeys((*encoders, *map(tokenizer_of, encoders))),
        )
        return cls(pipeline, config=config)

    def teacher(self, config: TeacherConfig) -> Teacher:
        """Return the same DiT as a `Teacher`. Raises ConfigError for a resolution that doesn't fit it."""
        return Teacher(self._pipeline.transformer, config=config, latent_scale=self._pipeline.vae_scale_factor)

    def generate(
        self,
        prompt_embeds_BTE: Tensor,
        *,
        pooled_BP: Tensor,
        seeds: Sequence[int],
        settings: GenerateConfig,
        on_step: OnStep | None = None,
    ) -> list[Image.Image]:
        """Generate one RGB image of `settings.width` x `settings.height` pixels per prompt.

        Prompts may have any number of text tokens. Each image's noise is drawn from its own seed on the CPU, so it is
        the same on every device and in every batch. Raises what `on_step` raises.
        """
        self._check_size(settings)
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        guided = self._architecture.classifier_free and settings.guidance > 1
        images = self._pipeline(
            prompt_embeds=prompt_embeds_BTE.to(device, dtype),
            pooled_prompt_embeds=pooled_BP.to(device, dtype),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            width=settings.width,
            height=settings.height,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance,
            callback_on_step_end=self._reporting(on_step, settings=settings) if on_step else None,
            **(self._negative(prompt_embeds_BTE) if guided else {}),
        ).images
        return list(images)

    def _reporting(self, on_step: OnStep, *, settings: GenerateConfig) -> Callable[..., dict[str, Any]]:
        """The callback of diffusers' pipeline, which is given only the latents after a step."""
        count, before = settings.num_inference_steps, None

        def report(pipeline: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal before
            latents, earlier = tensors["latents"], before
            before = latents
            if step + 1 < count:
                sigmas = pipeline.scheduler.sigmas[step : step + 2].tolist()
                size = {"width": settings.width, "height": settings.height}
                on_step(step + 1, count, lambda row: self._preview(_ending(latents, earlier, sigmas, row), **size))
            return {}

        return report

    def _preview(self, latents: Tensor, **size: int) -> Image.Image:
        return self._architecture.decode(self._pipeline, latents, **size)

    def _check_size(self, settings: GenerateConfig) -> None:
        unit = 2 * self._pipeline.vae_scale_factor
        limit = self._architecture.largest_side(self._pipeline.transformer)
        if settings.width % unit or settings.height % unit:
            raise ConfigError(f"size {settings.width}x{settings.height}: this model draws multiples of {unit} pixels")
        if limit is not None and max(settings.width, settings.height) > limit * unit:
            raise ConfigError(f"size {settings.width}x{settings.height}: this model draws up to {limit * unit} pixels")

    def _negative(self, prompt_embeds_BTE: Tensor) -> dict[str, Tensor]:
        """Return what guidance compares these prompts with: the text encoders' conditioning of the empty prompt.

        The encoders are loaded once, on the CPU, and let go: their output never changes.
        """
        if self._empty is None:
            if self._config is None:
                raise ConfigError("guidance above 1 needs the pipeline's text encoders; use generate.guidance=1")
            self._empty = TextEncoders.load(self._config).encode([""])
        device, dtype = self._pipeline.transformer.device, self._pipeline.transformer.dtype
        batch, num_text = prompt_embeds_BTE.shape[:2]
        # Both branches of a batch need one length. The last position is T5's padding, of which there may be any number.
        kept_T = torch.arange(num_text).clamp_max(self._empty.prompt_embeds_BTE.shape[1] - 1)
        return {
            "negative_prompt_embeds": self._empty.prompt_embeds_BTE[:, kept_T].expand(batch, -1, -1).to(device, dtype),
            "negative_pooled_prompt_embeds": self._empty.pooled_BP.expand(batch, -1).to(device, dtype),
        }


def _ending(latents: Tensor, earlier: Tensor | None, sigmas: Sequence[float], row: int) -> Tensor:
    """Where a row was heading in its last step, from noise level `sigmas[0]` to `sigmas[1]`.

    A step goes along a straight line, so two points give its end. After the first step there is one, with its noise.
    """
    now = latents[row : row + 1]
    if earlier is None:
        return now
    velocity = (now.float() - earlier[row : row + 1].float()) / (sigmas[1] - sigmas[0])
    return (now.float() - sigmas[1] * velocity).to(latents.dtype)
