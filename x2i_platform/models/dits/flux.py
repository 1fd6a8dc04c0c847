"""FLUX.1 and its fine-tunes: double blocks, then single ones; T5's tokens and CLIP's vector; guidance is an input.

Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dims import DiTDims
from x2i_platform.models.dits.interface import Architecture

if TYPE_CHECKING:
    from torch import Tensor


class Flux(Architecture):
    """`FluxTransformer2DModel`."""

    transformer = "FluxTransformer2DModel"
    pipeline = "FluxPipeline"
    clip = "CLIPTextModel"
    clips = ("text_encoder",)
    t5 = "text_encoder_2"
    classifier_free = False

    def dims(self, config: Mapping[str, Any], *, latent_scale: int) -> DiTDims:
        return DiTDims(
            num_double=config["num_layers"],
            num_single=config["num_single_layers"],
            inner_dim=config["num_attention_heads"] * config["attention_head_dim"],
            in_channels=config["in_channels"],
            joint_dim=config["joint_attention_dim"],
            pooled_dim=config["pooled_projection_dim"],
            guidance_embeds=config["guidance_embeds"],
            latent_scale=latent_scale,
        )

    def latent_channels(self, dit: Any) -> int:
        return int(dit.config.in_channels) // 4

    def velocity(
        self, dit: Any, conditioning: Conditioning, *, latents_BNC: Tensor, sigma_B: Tensor, guidance: float
    ) -> Tensor:
        """Predict the velocity. Guidance is passed only to a DiT with a guidance embedding."""
        import diffusers
        import torch

        device, dtype = dit.device, dit.dtype
        prompt_embeds_BTE, pooled_BP = conditioning
        batch, num_text = prompt_embeds_BTE.shape[:2]
        side = math.isqrt(latents_BNC.shape[1])
        # The pipeline keeps time times 1000 in the latents' dtype up to here. Doing the same gives the same rounding.
        time_B = (1000 * sigma_B).to(device, dtype) / 1000
        return dit(  # type: ignore[no-any-return]
            hidden_states=latents_BNC.to(device, dtype),
            encoder_hidden_states=prompt_embeds_BTE.to(device, dtype),
            pooled_projections=pooled_BP.to(device, dtype),
            timestep=time_B,
            guidance=torch.full((batch,), guidance, device=device) if dit.config.guidance_embeds else None,
            img_ids=diffusers.FluxPipeline._prepare_latent_image_ids(batch, side, side, device, dtype),
            txt_ids=torch.zeros(num_text, 3, device=device, dtype=dtype),
            return_dict=False,
        )[0]

    def encode(self, pipeline: Any, *, clip: Sequence[list[str]], t5: list[str], t5_tokens: int) -> Conditioning:
        prompt_embeds, pooled, _ = pipeline.encode_prompt(prompt=clip[0], prompt_2=t5, max_sequence_length=t5_tokens)
        return Conditioning(prompt_embeds_BTE=prompt_embeds, pooled_BP=pooled)

    def unpacked(self, pipeline: Any, latents: Tensor, *, width: int, height: int) -> Tensor:
        return pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)  # type: ignore[no-any-return]
