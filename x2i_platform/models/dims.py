"""Sizes of the networks, for plans. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from x2i_platform.config import AlignNetConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.taps import flux_tap_names, sd3_tap_names

DEFAULT_T5_HEAD_DIM = 128
"""Head width of AlignNet's optional T5 stack if a recipe sets neither the width nor the number of heads."""


@dataclass(frozen=True)
class DiTDims:
    """Sizes of a diffusion transformer, with its VAE's scale. The defaults are FLUX.1's."""

    num_double: int = 19
    num_single: int = 38
    inner_dim: int = 3072
    in_channels: int = 64
    joint_dim: int = 4096
    pooled_dim: int = 768
    guidance_embeds: bool = True
    latent_scale: int = 8
    """Side of one latent in pixels; a token covers 2 x 2 latents."""
    dual_blocks: tuple[int, ...] = ()
    """Double blocks with a second attention, on the image alone."""
    text_ends: bool = False
    """Whether the last double block has no text output."""

    @property
    def tap_names(self) -> tuple[str, ...]:
        return flux_tap_names(num_double=self.num_double, num_single=self.num_single)

    def num_image_tokens(self, resolution: int) -> int:
        """Return the number of tokens of a square canvas with a side of `resolution` pixels: 4096 for 1024."""
        return (resolution // (2 * self.latent_scale)) ** 2


@dataclass(frozen=True)
class SD3Dims(DiTDims):
    """Sizes of an SD3 diffusion transformer. The defaults are those of Stable Diffusion 3.5 large."""

    num_double: int = 38
    num_single: int = 0
    inner_dim: int = 2432
    pooled_dim: int = 2048
    guidance_embeds: bool = False
    text_ends: bool = True

    @property
    def tap_names(self) -> tuple[str, ...]:
        return sd3_tap_names(num_double=self.num_double, dual_blocks=self.dual_blocks)


@dataclass(frozen=True)
class T5Dims:
    """Sizes of a gated-GELU T5 encoder."""

    num_layers: int = 24
    d_model: int = 4096
    d_ff: int = 10240
    attention_dim: int = 4096
    """Number of heads times head width."""


@dataclass(frozen=True)
class MLLMDims:
    """Sizes of an MLLM's language model, a pre-norm decoder with gated MLPs."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int

    @property
    def num_states(self) -> int:
        """Hidden states per token, with the embedding output: AlignNet's C."""
        return self.num_layers + 1


def t5_attention(config: AlignNetConfig, *, hidden_size: int) -> tuple[int, int]:
    """Return number and width of the optional T5 stack's heads.

    The product may exceed the hidden width: the released stack for Qwen2.5-VL-3B has 28 × 128 on 2048. Raises
    ConfigError for a number of heads that doesn't divide the hidden width, if no head width is given.
    """
    heads, width = config.t5_heads, config.t5_head_dim
    if heads is None:
        width = width or DEFAULT_T5_HEAD_DIM
        return max(1, hidden_size // width), width
    if width is None and hidden_size % heads:
        raise ConfigError(
            f"alignnet.t5_heads = {heads} doesn't divide the MLLM's hidden width {hidden_size}; "
            "set alignnet.t5_head_dim too"
        )
    return heads, width or hidden_size // heads
