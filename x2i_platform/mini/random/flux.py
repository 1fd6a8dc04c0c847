"""Writes `mini:random-flux`: a FluxPipeline folder with every part of FLUX.1-dev, at a width of 96 instead of 3072.

Invariant: as in FLUX.1, a latent covers 8 x 8 pixels and a token 2 x 2 latents. So a 64-pixel canvas has 16 image
tokens, and a recipe's arithmetic is the same at both sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.vocabularies import CLIP_TOKENS, clip_tokenizer, t5_tokenizer

SEED = 1000
LATENT_CHANNELS = 16
PROMPT_DIM = 64
POOLED_DIM = 32
HEADS = 4
ROPE_AXES = (8, 8, 8)


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build the pipeline and save it under `folder`; 1.6 million parameters in float32 safetensors."""
    clip_words, t5_words = clip_tokenizer(captions), t5_tokenizer(captions)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(),
        text_encoder=_clip(clip_words),
        tokenizer=clip_words,
        text_encoder_2=_t5(t5_words),
        tokenizer_2=t5_words,
        transformer=_dit(),
    )
    models = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    for offset, model in enumerate(models):
        fill(model, seed=SEED + offset)
    # T5 doesn't divide its attention scores by sqrt(head width). Its query weights contain that factor.
    for block in pipeline.text_encoder_2.encoder.block:
        block.layer[0].SelfAttention.q.weight.data *= pipeline.text_encoder_2.config.d_kv**-0.5
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


def _vae() -> AutoencoderKL:
    """Build a VAE with four levels, so a scale factor of 8, and FLUX.1's scaling and shift of latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _clip(words: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=POOLED_DIM,
        intermediate_size=2 * POOLED_DIM,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=POOLED_DIM,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config).eval()


def _t5(words: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words),
        d_model=PROMPT_DIM,
        d_kv=16,
        d_ff=2 * PROMPT_DIM,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )
    return T5EncoderModel(config).eval()
