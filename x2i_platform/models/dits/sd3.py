"""Stable Diffusion 3 and 3.5: double blocks alone; the tokens of two CLIPs, then T5's; classifier-free guidance.

How it differs from FLUX.1 (diffusers' `SD3Transformer2DModel` and `StableDiffusion3Pipeline`):

- The DiT takes and gives latents as images, and cuts them into 2 x 2 patches itself.
- The text is one sequence: `teacher.clip_tokens` positions with both CLIPs side by side, padded to T5's width with
  zeros, then T5's tokens. `teacher.text_tokens` counts both: 333 = 77 + 256. The pooled vector is that of both CLIPs.
- The last block's attention reads the text but drops its output. Some blocks of SD3.5-medium have a second attention,
  on the image alone.
- A table of positions limits the canvas.

Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from x2i_platform.config import TeacherConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dims import DiTDims, SD3Dims
from x2i_platform.models.dits.interface import Architecture
from x2i_platform.models.dits.packing import pack, unpack

if TYPE_CHECKING:
    from torch import Tensor


class SD3(Architecture):
    """`SD3Transformer2DModel`."""

    transformer = "SD3Transformer2DModel"
    pipeline = "StableDiffusion3Pipeline"
    clip = "CLIPTextModelWithProjection"
    clips = ("text_encoder", "text_encoder_2")
    t5 = "text_encoder_3"
    t5_setting = "teacher.text_tokens - teacher.clip_tokens"
    classifier_free = True
    tables = ("pos_embed.pos_embed",)

    def dims(self, config: Mapping[str, Any], *, latent_scale: int) -> DiTDims:
        return SD3Dims(
            num_double=config["num_layers"],
            inner_dim=config["num_attention_heads"] * config["attention_head_dim"],
            in_channels=4 * config["in_channels"],
            joint_dim=config["joint_attention_dim"],
            pooled_dim=config["pooled_projection_dim"],
            latent_scale=latent_scale,
            # SD3.5-large's published config has no such key.
            dual_blocks=tuple(config.get("dual_attention_layers") or ()),
        )

    def t5_tokens(self, config: TeacherConfig) -> int:
        tokens = config.text_tokens - config.clip_tokens
        if tokens < 1:
            raise ConfigError(
                f"teacher.text_tokens = {config.text_tokens} leaves T5 no token after CLIP's {config.clip_tokens}; "
                f"Stable Diffusion 3.5 reads {config.clip_tokens + 256}"
            )
        return tokens

    def latent_channels(self, dit: Any) -> int:
        return int(dit.config.in_channels)

    def velocity(
        self,
        dit: Any,
        conditioning: Conditioning,
        *,
        latents_BNC: Tensor,
        sigma_B: Tensor,
        guidance: float,  # noqa: ARG002 - this DiT has no input for it
    ) -> Tensor:
        device, dtype = dit.device, dit.dtype
        velocity_BcHW = dit(
            hidden_states=unpack(latents_BNC.to(device, dtype)),
            encoder_hidden_states=conditioning.prompt_embeds_BTE.to(device, dtype),
            pooled_projections=conditioning.pooled_BP.to(device, dtype),
            timestep=(1000 * sigma_B).to(device),
            return_dict=False,
        )[0]
        return pack(velocity_BcHW)

    def encode(self, pipeline: Any, *, clip: Sequence[list[str]], t5: list[str], t5_tokens: int) -> Conditioning:
        prompt_embeds, _, pooled, _ = pipeline.encode_prompt(
            prompt=clip[0],
            prompt_2=clip[1],
            prompt_3=t5,
            do_classifier_free_guidance=False,
            max_sequence_length=t5_tokens,
        )
        return Conditioning(prompt_embeds_BTE=prompt_embeds, pooled_BP=pooled)

    def unpacked(self, pipeline: Any, latents: Tensor, *, width: int, height: int) -> Tensor:  # noqa: ARG002 - its latents are images
        return latents
