"""Writes `mini:random-sd3`: a StableDiffusion3Pipeline folder with every part of Stable Diffusion 3.5, 96 wide.

Invariants: a latent covers 8 x 8 pixels and a token 2 x 2 latents, as in the large models. The first block has a second
attention, as in SD3.5-medium, and the last has no text output. The two CLIPs have different widths, together less than
T5's, so that their order and their padding with zeros make a difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection

from x2i_platform.mini.random.parts import LATENT_CHANNELS, PROMPT_DIM, clip_config, fill_t5, t5, vae
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.vocabularies import clip_tokenizer, t5_tokenizer

SEED = 3000
CLIP_DIMS = (16, 32)
HEADS, HEAD_DIM = 4, 24
BLOCKS = 3
LARGEST_SIDE = 16
"""Side of the table of positions in tokens: canvases of up to 256 pixels."""


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build the pipeline and save it under `folder`; 1.1 million parameters in float32 safetensors."""
    clip_words, big_clip_words, t5_words = clip_tokenizer(captions), clip_tokenizer(captions), t5_tokenizer(captions)
    big_clip_words.pad_token = "!"  # as in Stable Diffusion 3, where the first CLIP pads with its end token
    pipeline = StableDiffusion3Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(clip_config(clip_words, width=CLIP_DIMS[0])).eval(),
        tokenizer=clip_words,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(big_clip_words, width=CLIP_DIMS[1])).eval(),
        tokenizer_2=big_clip_words,
        text_encoder_3=t5(t5_words),
        tokenizer_3=t5_words,
        transformer=_dit(),
    )
    models = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    for offset, model in enumerate(models):
        fill(model, seed=SEED + offset)
    fill_t5(pipeline.text_encoder_3, seed=SEED + len(models))
    pipeline.save_pretrained(folder, safe_serialization=True)


def _dit() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=BLOCKS,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=PROMPT_DIM,
        caption_projection_dim=HEADS * HEAD_DIM,
        pooled_projection_dim=sum(CLIP_DIMS),
        pos_embed_max_size=LARGEST_SIDE,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
