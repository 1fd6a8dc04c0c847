"""Writes `mini:random-flux`: a FluxPipeline folder with every part of FLUX.1-dev, at a width of 96 instead of 3072.

Invariant: as in FLUX.1, a latent covers 8 x 8 pixels and a token 2 x 2 latents. So a 64-pixel canvas has 16 image
tokens, and a recipe's arithmetic is the same at both sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel

from x2i_platform.mini.random.parts import LATENT_CHANNELS, PROMPT_DIM, clip_config, fill_t5, t5, vae
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.vocabularies import clip_tokenizer, t5_tokenizer

SEED = 1000
POOLED_DIM = 32
HEADS = 4
ROPE_AXES = (8, 8, 8)


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build the pipeline and save it under `folder`; 1.6 million parameters in float32 safetensors."""
    clip_words, t5_words = clip_tokenizer(captions), t5_tokenizer(captions)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip_config(clip_words, width=POOLED_DIM)).eval(),
        tokenizer=clip_words,
        text_encoder_2=t5(t5_words),
        tokenizer_2=t5_words,
        transformer=_dit(),
    )
    for offset, model in enumerate((pipeline.transformer, pipeline.vae, pipeline.text_encoder)):
        fill(model, seed=SEED + offset)
    fill_t5(pipeline.text_encoder_2, seed=SEED + 3)
    pipeline.save_pretrained(folder, safe_serialization=True)


def _dit() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=sum(ROPE_AXES),
        num_attention_heads=HEADS,
        joint_attention_dim=PROMPT_DIM,
        pooled_projection_dim=POOLED_DIM,
        guidance_embeds=True,
        axes_dims_rope=ROPE_AXES,
    )
