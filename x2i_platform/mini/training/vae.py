"""Trains the VAE on pictures of scenes that are allowed in training.

The loss is the negative evidence lower bound of a Gaussian decoder. The noise on the latents teaches the decoder to
draw clean edges from slightly wrong latents, such as a sampler's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from x2i_platform.mini.drawing import SIDE, picture
from x2i_platform.mini.scenes import scenes
from x2i_platform.mini.training.corpus import pixels_of, training_scenes
from x2i_platform.mini.training.trainer import Schedule, train

SEED = 11
PIXEL_SIGMA = 0.07
"""Standard deviation of the Gaussian decoder, for pixels from -1 to 1. Larger: fewer, noisier, more robust latents."""
SCHEDULE = Schedule(steps=2500, batch=32, lr=2e-3, muon=False, weight_decay=0.0, ema=0.995)
LATENT_CHANNELS = 16
STANDARDISED_OVER = 512
"""Number of pictures over which the latents are standardised."""


def untrained() -> AutoencoderKL:
    """Build a VAE with four levels, so a scale factor of 8, as in FLUX.1."""
    torch.manual_seed(SEED)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def build(folder: Path, *, schedule: Schedule = SCHEDULE) -> AutoencoderKL:
    """Train or resume, then set shift and scale so that latents have zero mean and unit variance."""
    vae = untrained()
    train(vae, lambda step: _loss(vae, count=schedule.batch, step=step), schedule=schedule, folder=folder, title="vae")
    vae.eval().requires_grad_(False)
    _standardise(vae)
    return vae


def _loss(vae: AutoencoderKL, *, count: int, step: int) -> Mapping[str, Tensor]:
    pixels = pixels_of([picture(scene, seed=step).draw() for scene in islice(scenes(held_out=False, seed=step), count)])
    posterior = vae.encode(pixels).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    squared = (decoded - pixels).square().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    # Both terms per latent value: each place with 16 latent channels covers 8 x 8 pixels with 3 channels.
    weight = pixels[0].numel() / posterior.mean[0].numel() / (2 * PIXEL_SIGMA**2)
    return {"loss": weight * squared + kl, "rmse": squared.sqrt() * 127.5, "kl": kl}


@torch.no_grad()
def _standardise(vae: AutoencoderKL) -> None:
    """Set shift and scale so that latents of training pictures have zero mean and unit variance."""
    chosen = islice(training_scenes(seed=SEED), STANDARDISED_OVER)
    pixels = pixels_of([picture(scene, seed=i).draw() for i, scene in enumerate(chosen)])
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(pixels, 64)])
    vae.register_to_config(shift_factor=float(latents.mean()), scaling_factor=1 / float(latents.std()))
