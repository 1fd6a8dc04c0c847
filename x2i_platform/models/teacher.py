"""The frozen DiT that teacher and student share: noise and conditioning in, velocity out.

It computes one denoising step of the pipeline in diffusers at a set noise level, in the way of its kind of DiT: `dits`
has the table. `taps.attention_taps` records the outputs of its attention modules.

Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import diffusers
import torch
from torch import Tensor

from x2i_platform.config import TeacherConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.components import load_frozen, pipeline_architecture
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dits import architecture_of
from x2i_platform.models.dits.packing import pack
from x2i_platform.models.entries import read_config
from x2i_platform.models.taps import tap_names
from x2i_platform.models.weights import locate


class Teacher:
    """A DiT with one canvas size and one guidance.

    Its weights are frozen; gradients with respect to the conditioning pass through it.
    """

    def __init__(self, dit: Any, *, config: TeacherConfig, latent_scale: int) -> None:
        """`latent_scale` is the side in pixels of one latent of the pipeline's VAE: 8 for FLUX.1."""
        unit = 2 * latent_scale
        if config.resolution % unit:
            raise ConfigError(f"resolution {config.resolution} isn't a multiple of this model's {unit}")
        self.architecture = architecture_of(dit)
        limit = self.architecture.largest_side(dit)
        if limit is not None and config.resolution > limit * unit:
            raise ConfigError(f"resolution {config.resolution} is above this model's {limit * unit}")
        self.dit = dit
        self.config = config
        self.side = config.resolution // latent_scale
        """Side of the canvas in latents; a token packs 2 x 2 of them."""

    @classmethod
    def load(cls, config: TeacherConfig, *, device: str = "cpu") -> Self:
        """Load the DiT. Raises WeightsError if it is of no known kind or not whole, ConfigError for a bad canvas."""
        folder = locate(config.model, revision=config.revision)
        kind = getattr(diffusers, pipeline_architecture(folder).transformer)
        vae = read_config(folder / "vae")
        dit = load_frozen(kind, folder / "transformer", dtype=config.dtype, device=device)
        return cls(dit, config=config, latent_scale=2 ** (len(vae["block_out_channels"]) - 1))

    @property
    def tap_names(self) -> tuple[str, ...]:
        return tap_names(self.dit)

    @property
    def num_image_tokens(self) -> int:
        return (self.side // 2) ** 2

    @property
    def num_text_tokens(self) -> int:
        return self.config.text_tokens

    @property
    def inner_dim(self) -> int:
        """Number of channels of every tap."""
        return int(self.dit.inner_dim)

    @property
    def joint_dim(self) -> int:
        """Width of the prompt embeds."""
        return int(self.dit.config.joint_attention_dim)

    @property
    def pooled_dim(self) -> int:
        return int(self.dit.config.pooled_projection_dim)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.dit.enable_gradient_checkpointing()

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Draw packed noise `(B, N, C)`, one canvas per seed, on the DiT's device in its dtype.

        It is drawn on the CPU in float32, so it is the same on every device and in every batch. In float32 it equals
        what the pipeline draws from `torch.Generator().manual_seed(seed)`.
        """
        shape = (1, self.architecture.latent_channels(self.dit), self.side, self.side)
        canvases = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        # (B, C / 4, side, side) -> (B, N, C): one token from each 2 x 2 latents.
        return pack(torch.cat(canvases)).to(self.dit.device, self.dit.dtype)

    def sigmas(self, seeds: Sequence[int]) -> Tensor:
        """Return each seed's noise level `(B,)`, one of the config's."""
        return torch.tensor([self.config.sigmas[seed % len(self.config.sigmas)] for seed in seeds])

    @torch.no_grad()
    def canvas(self, seeds: Sequence[int], *, prompt_embeds_BTE: Tensor, pooled_BP: Tensor) -> Tensor:
        """Return the latents `(B, N, C)` that the DiT sees while it is tapped.

        They are noise, or with `estimate` the result of one Euler step from that noise to the seed's noise level under
        this conditioning, rounded to float16 as it is stored.
        """
        noise_BNC = self.noise(seeds)
        if self.config.canvas == "noise":
            return noise_BNC
        # The teacher's first step starts at pure noise, sigma = 1.
        start_B = torch.ones(len(seeds))
        velocity_BNC = self.forward(prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=noise_BNC, sigma_B=start_B)
        # Euler: x(sigma) = x(1) + (sigma - 1) v, one sigma per sample.
        step_B11 = (self.sigmas(seeds) - start_B)[:, None, None].to(noise_BNC)
        return (noise_BNC + step_B11 * velocity_BNC).half()

    def forward(self, prompt_embeds_BTE: Tensor, *, pooled_BP: Tensor, latents_BNC: Tensor, sigma_B: Tensor) -> Tensor:
        """Predict the velocity `(B, N, C)` at the config's guidance, for any number of text tokens.

        `sigma_B` only sets the DiT's time input; the caller provides latents of that noise level. A DiT without a
        guidance input doesn't see the guidance.
        """
        return self.architecture.velocity(
            self.dit,
            Conditioning(prompt_embeds_BTE, pooled_BP),
            latents_BNC=latents_BNC,
            sigma_B=sigma_B,
            guidance=self.config.guidance,
        )
