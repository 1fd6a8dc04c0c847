"""The teacher's text encoders and DiT, trained by flow matching on the VAE's latents.

In the first stage all learn together; that T5 never learns which of two things is where, so in the second a T5 that
learned it from text takes its place, frozen. CLIP's pooled vector also has to tell the batch's pictures apart, as CLIP
was trained to do. Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens.
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

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import caption
from x2i_platform.mini.scenes import Category, Scene
from x2i_platform.mini.training import text
from x2i_platform.mini.training.corpus import SHARES, pixels_of, tokenizer_texts, training_scenes
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.vocabularies import clip_tokenizer, t5_tokenizer

SEED = 12
POOL = 60_000
"""Pictures whose latents are computed once."""
BATCH = 64
TEXT_TOKENS = 24
CLIP_TOKENS = 32
PROMPT_DIM = 128
POOLED_DIM = 64
HEADS = 4
ROPE_AXES = (8, 12, 12)
CONTRASTIVE_WEIGHT = 0.05


@dataclass(frozen=True)
class Stage:
    """How one stage trains: noise levels are logit-normal, pictures are drawn from pools."""

    schedule: Schedule
    seed: int
    pools: tuple[str, ...]
    """Names of files of latents."""
    text_tokens: int = TEXT_TOKENS
    sigma_mean: float = 0.8
    """What stands where is decided in nearly pure noise."""
    sigma_std: float = 1.2


FIRST = Stage(
    Schedule(steps=6000, stop=5100, lr=2e-3, warmup=200, ema=0.999),
    seed=SEED,
    pools=("latents.pt",),
    text_tokens=32,
    sigma_mean=0.3,
    sigma_std=1.0,
)
SECOND = Stage(
    Schedule(steps=6000, lr=1.5e-3, warmup=100, ema=0.999), seed=SEED + 1, pools=("latents.pt", "latents-and.pt")
)
POOLS: Mapping[str, tuple[int, Mapping[Category, int]]] = {
    "latents.pt": (SEED, SHARES),
    "latents-and.pt": (SEED + 2, {"single": 1, "colour": 1, "count": 2, "position": 3, "binding": 9}),
}
"""Seed and shares of the scenes. Hardest is "and": what comes where is left open, and two places have to settle on
different things."""


class TeacherParts(nn.Module):
    """What is trained together; `tower` sees latents and is dropped after training."""

    def __init__(self, *, latent_dim: int) -> None:
        super().__init__()
        texts = tokenizer_texts("english")
        self.t5_words, self.clip_words = t5_tokenizer(texts), clip_tokenizer(texts)
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
            in_channels=latent_dim,
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
        self.tower = nn.Sequential(nn.Flatten(), nn.Linear(16 * latent_dim, 256), nn.GELU(), nn.Linear(256, POOLED_DIM))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def encode(self, captions: list[str], *, text_tokens: int = TEXT_TOKENS) -> tuple[Tensor, Tensor]:
        """T5's tokens, padded without a mask as FLUX has it, and CLIP's pooled vector."""
        t5_ids = self.t5_words(captions, padding="max_length", max_length=text_tokens, return_tensors="pt").input_ids
        clip_ids = self.clip_words(captions, padding=True, return_tensors="pt").input_ids
        return self.t5(t5_ids)[0], self.clip(clip_ids).pooler_output


def _start_as_identity(dit: FluxTransformer2DModel) -> None:
    """Every block adds nothing at first (adaLN-Zero, Peebles & Xie 2023)."""
    for module in dit.modules():
        if isinstance(module, AdaLayerNormZero | AdaLayerNormZeroSingle | AdaLayerNormContinuous):
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)
    nn.init.zeros_(dit.proj_out.weight)


@dataclass(frozen=True)
class Pool:
    """Scenes and the packed latents of one picture of each."""

    scenes: list[Scene]
    latents: Tensor


def build(folder: Path, *, vae: AutoencoderKL) -> TeacherParts:
    """Train, or continue to."""
    parts = TeacherParts(latent_dim=4 * vae.config.latent_channels)

    def learn(stage: Stage, *, name: str) -> None:
        pool = joined([latent_pool(folder / file, vae=vae) for file in stage.pools])
        inputs = hashlib.sha256(pool.latents.numpy().tobytes()).hexdigest()

        def loss(step: int) -> Mapping[str, Tensor]:
            return _loss(parts, pool, stage=stage, step=step)

        train(parts, loss, schedule=stage.schedule, folder=folder / name, title=f"dit, {name}", inputs=inputs)

    learn(FIRST, name="first")
    parts.t5 = text.build(
        folder / "text", config=parts.t5.config, tokenizer=parts.t5_words, text_tokens=SECOND.text_tokens
    )
    learn(SECOND, name="second")
    return parts.eval().requires_grad_(False)


def _loss(parts: TeacherParts, pool: Pool, *, stage: Stage, step: int) -> Mapping[str, Tensor]:
    draw = torch.Generator().manual_seed(1_000_003 * stage.seed + step)
    chosen = torch.randint(len(pool.scenes), (BATCH,), generator=draw)
    clean_BNC = pool.latents[chosen].float()
    captions = [caption(pool.scenes[i], seed=step) for i in chosen.tolist()]
    embeds, pooled = parts.encode(captions, text_tokens=stage.text_tokens)
    noise = torch.randn(clean_BNC.shape, generator=draw)
    sigma_B = torch.sigmoid(torch.randn(BATCH, generator=draw) * stage.sigma_std + stage.sigma_mean)
    sigma = sigma_B[:, None, None]
    velocity = predict(
        parts.dit, (1 - sigma) * clean_BNC + sigma * noise, sigma_B=sigma_B, embeds=embeds, pooled=pooled
    )
    flow = (velocity - (noise - clean_BNC)).square().mean()
    contrastive = _contrastive(parts, pooled=pooled, clean_BNC=clean_BNC)
    return {"loss": flow + CONTRASTIVE_WEIGHT * contrastive, "flow": flow, "contrastive": contrastive}


def _contrastive(parts: TeacherParts, *, pooled: Tensor, clean_BNC: Tensor) -> Tensor:
    text, image = (nn.functional.normalize(each, dim=-1) for each in (pooled, parts.tower(clean_BNC)))
    scores = parts.log_scale.exp() * text @ image.T
    labels = torch.arange(len(scores))
    return (nn.functional.cross_entropy(scores, labels) + nn.functional.cross_entropy(scores.T, labels)) / 2


def predict(
    dit: FluxTransformer2DModel, latents_BNC: Tensor, *, sigma_B: Tensor, embeds: Tensor, pooled: Tensor
) -> Tensor:
    """The velocity at noise level sigma."""
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


def latent_pool(path: Path, *, vae: AutoencoderKL) -> Pool:
    """Latents of a pool's pictures, `(POOL, N, C)` in half precision, computed once."""
    seed, shares = POOLS[path.name]
    chosen = list(islice(training_scenes(seed=seed, shares=shares), POOL))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        latents = torch.cat([encode(vae, chosen[i : i + 100], first_seed=i) for i in range(0, POOL, 100)])
        aside = path.with_suffix(".tmp")
        torch.save(latents.half(), aside)
        aside.replace(path)
    return Pool(chosen, torch.load(path, weights_only=True))


def joined(pools: Sequence[Pool]) -> Pool:
    """One pool of all."""
    return Pool([scene for pool in pools for scene in pool.scenes], torch.cat([pool.latents for pool in pools]))


@torch.no_grad()
def encode(vae: AutoencoderKL, chosen: list[Scene], *, first_seed: int) -> Tensor:
    """Packed latents `(B, N, C)` of one picture a scene, shifted and scaled as the pipeline does."""
    images = [picture(scene, seed=first_seed + i).draw() for i, scene in enumerate(chosen)]
    mode = vae.encode(pixels_of(images)).latent_dist.mode()
    latents = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    packed: Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed
