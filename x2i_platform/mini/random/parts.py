"""Parts that the untrained pipelines share in kind: VAE, T5 and the shape of CLIP."""

from __future__ import annotations

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.vocabularies import CLIP_TOKENS

LATENT_CHANNELS = 16
PROMPT_DIM = 64


def vae(*, scaling_factor: float, shift_factor: float) -> AutoencoderKL:
    """Build a VAE with four levels, so a scale factor of 8, and a pipeline's scaling and shift of latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def clip_config(words: CLIPTokenizer, *, width: int) -> CLIPTextConfig:
    """Return the sizes of a CLIP text encoder that gives a pooled vector of its own width."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS,
        projection_dim=width,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )


def t5(words: T5Tokenizer) -> T5EncoderModel:
    """Build a T5 encoder of width PROMPT_DIM."""
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


def fill_t5(model: T5EncoderModel, *, seed: int) -> None:
    """Fill T5's weights. It doesn't divide its attention scores by sqrt(head width): its queries contain the factor."""
    fill(model, seed=seed)
    for block in model.encoder.block:
        block.layer[0].SelfAttention.q.weight.data *= model.config.d_kv**-0.5
