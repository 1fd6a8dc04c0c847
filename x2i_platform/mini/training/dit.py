"""Trains the teacher's CLIP and DiT by flow matching on the VAE's latents and a frozen T5's tokens.

T5 has learned the positions of two things from text, see `text`. A contrastive loss, as in CLIP's own training, makes
the pooled vector distinguish the pictures of a batch.

Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero, AdaLayerNormZeroSingle
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from x2i_platform.files import published
from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import caption
from x2i_platform.mini.scenes import Category, Scene
from x2i_platform.mini.training.corpus import SHARES, pixels_of, tokenizer_texts, training_scenes
from x2i_platform.mini.training.text import TEXT_TOKENS
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.training.vae import LATENT_CHANNELS
from x2i_platform.mini.vocabularies import clip_tokenizer, t5_tokenizer

SEED = 12
SCHEDULE = Schedule(steps=8000, batch=64, lr=2e-3, warmup=200, ema=0.999)
POOL = 60_000
"""Number of pictures per pool. Their latents are computed once."""
SIGMA_MEAN, SIGMA_STD = 0.8, 1.2
"""Noise levels are logit-normal and mostly high, because positions are decided in nearly pure noise."""
LATENT_DIM = 4 * LATENT_CHANNELS
CLIP_TOKENS = 32
PROMPT_DIM = 128
POOLED_DIM = 64
HEADS = 4
ROPE_AXES = (8, 12, 12)
CONTRASTIVE_WEIGHT = 0.05
POOLS: Mapping[str, tuple[int, Mapping[Category, int]]] = {
    "latents.pt": (SEED, SHARES),
    "latents-and.pt": (SEED + 2, {"single": 1, "colour": 1, "count": 2, "position": 3, "binding": 9}),
}
"""Seed and category weights of the scenes. "and" is hardest: positions are left open, so two places have to agree on
different things."""


class TeacherParts(nn.Module):
    """The teacher without its VAE. `tower` encodes latents for the contrastive loss and is dropped after training."""

    def __init__(self) -> None:
        super().__init__()
        texts = tokenizer_texts("english")
        self.t5_words, self.clip_words = t5_tokenizer(texts), clip_tokenizer(texts)
        self.t5_words.model_max_length, self.clip_words.model_max_length = TEXT_TOKENS, CLIP_TOKENS
        torch.manual_seed(SEED)
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.t5_words),
                d_model=PROMPT_DIM,
                d_kv=32,
                d_ff=2 * PROMPT_DIM,
                num_layers=3,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                pad_token_id=self.t5_words.pad_token_id,
                eos_token_id=self.t5_words.eos_token_id,
            )
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self.clip_words),
                hidden_size=POOLED_DIM,
                intermediate_size=4 * POOLED_DIM,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=77,
                projection_dim=POOLED_DIM,
                bos_token_id=self.clip_words.bos_token_id,
                eos_token_id=self.clip_words.eos_token_id,
                pad_token_id=self.clip_words.pad_token_id,
            )
        )
        self.dit = FluxTransformer2DModel(
            in_channels=LATENT_DIM,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=sum(ROPE_AXES),
            num_attention_heads=HEADS,
            joint_attention_dim=PROMPT_DIM,
            pooled_projection_dim=POOLED_DIM,
            guidance_embeds=False,
            axes_dims_rope=ROPE_AXES,
        )
        _start_as_identity(self.dit)
        self.tower = nn.Sequential(nn.Flatten(), nn.Linear(16 * LATENT_DIM, 256), nn.GELU(), nn.Linear(256, POOLED_DIM))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Return T5's tokens, padded without a mask as in FLUX, and CLIP's pooled vector."""
        t5_ids = self.t5_words(captions, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
        clip_ids = self.clip_words(captions, padding=True, return_tensors="pt").input_ids
        return self.t5(t5_ids)[0], self.clip(clip_ids).pooler_output


def _start_as_identity(dit: FluxTransformer2DModel) -> None:
    """Set the modulation to zero, so that every block starts as the identity (adaLN-Zero, Peebles & Xie 2023)."""
    for module in dit.modules():
        if isinstance(module, AdaLayerNormZero | AdaLayerNormZeroSingle | AdaLayerNormContinuous):
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)
    nn.init.zeros_(dit.proj_out.weight)


@dataclass(frozen=True)
class Pool:
    """Scenes, and the packed latents of one picture of each."""

    scenes: list[Scene]
    latents: Tensor


def build(
    parts: TeacherParts, *, vae: AutoencoderKL, folder: Path, schedule: Schedule = SCHEDULE, pool_size: int = POOL
) -> None:
    """Train CLIP and the DiT in place, or resume. T5 is already frozen."""
    pool = joined([latent_pool(folder / name, vae=vae, size=pool_size) for name in POOLS])
    inputs = hashlib.sha256(pool.latents.numpy().tobytes()).hexdigest()

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(parts, pool, count=schedule.batch, step=step)

    train(parts, loss, schedule=schedule, folder=folder, title="dit", inputs=inputs)
    parts.eval().requires_grad_(False)


def _loss(parts: TeacherParts, pool: Pool, *, count: int, step: int) -> Mapping[str, Tensor]:
    draw = torch.Generator().manual_seed(1_000_003 * SEED + step)
    chosen = torch.randint(len(pool.scenes), (count,), generator=draw)
    clean_BNC = pool.latents[chosen].float()
    embeds, pooled = parts.encode([caption(pool.scenes[i], seed=step) for i in chosen.tolist()])
    noise = torch.randn(clean_BNC.shape, generator=draw)
    sigma_B = torch.sigmoid(torch.randn(count, generator=draw) * SIGMA_STD + SIGMA_MEAN)
    sigma = sigma_B[:, None, None]
    # Flow matching: interpolate between picture and noise; the target is their difference.
    velocity = predict(
        parts.dit, (1 - sigma) * clean_BNC + sigma * noise, sigma_B=sigma_B, embeds=embeds, pooled=pooled
    )
    flow = (velocity - (noise - clean_BNC)).square().mean()
    contrastive = _contrastive(parts, pooled=pooled, clean_BNC=clean_BNC)
    return {"loss": flow + CONTRASTIVE_WEIGHT * contrastive, "flow": flow, "contrastive": contrastive}


def _contrastive(parts: TeacherParts, *, pooled: Tensor, clean_BNC: Tensor) -> Tensor:
    """Compute CLIP's symmetric contrastive loss between captions and pictures of the batch."""
    text, image = (nn.functional.normalize(each, dim=-1) for each in (pooled, parts.tower(clean_BNC)))
    scores = parts.log_scale.exp() * text @ image.T
    labels = torch.arange(len(scores))
    return (nn.functional.cross_entropy(scores, labels) + nn.functional.cross_entropy(scores.T, labels)) / 2


def predict(
    dit: FluxTransformer2DModel, latents_BNC: Tensor, *, sigma_B: Tensor, embeds: Tensor, pooled: Tensor
) -> Tensor:
    """Predict the velocity at noise level sigma."""
    side = int(latents_BNC.shape[1] ** 0.5)
    return dit(  # type: ignore[no-any-return]
        hidden_states=latents_BNC,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
        timestep=sigma_B,
        img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, latents_BNC.device, latents_BNC.dtype),
        txt_ids=torch.zeros(embeds.shape[1], 3),
        return_dict=False,
    )[0]


def latent_pool(path: Path, *, vae: AutoencoderKL, size: int) -> Pool:
    """Return a pool with latents `(size, N, C)` in half precision, which are computed once."""
    seed, shares = POOLS[path.name]
    chosen = list(islice(training_scenes(seed=seed, shares=shares), size))
    if not path.is_file():
        latents = torch.cat([encode(vae, chosen[i : i + 100], first_seed=i) for i in range(0, size, 100)])
        with published(path) as scratch:
            torch.save(latents.half(), scratch)
    return Pool(chosen, torch.load(path, weights_only=True))


def joined(pools: Sequence[Pool]) -> Pool:
    """Concatenate pools."""
    return Pool([scene for pool in pools for scene in pool.scenes], torch.cat([pool.latents for pool in pools]))


@torch.no_grad()
def encode(vae: AutoencoderKL, chosen: list[Scene], *, first_seed: int) -> Tensor:
    """Encode one picture per scene to packed latents `(B, N, C)`, shifted and scaled as in the pipeline."""
    images = [picture(scene, seed=first_seed + i).draw() for i, scene in enumerate(chosen)]
    mode = vae.encode(pixels_of(images)).latent_dist.mode()
    latents = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed
