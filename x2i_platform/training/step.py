"""The distillation step: MLLM states → AlignNet → frozen DiT → attention outputs, compared with the teacher's.

Shape suffixes: B batch, S tokens, T kept tokens, N tokens of a tap, D channels.

Pure PyTorch: no Ray, no DeepSpeed, no MLflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from x2i_platform.config import TrainConfig
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.taps import Tap, attention_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.training.data import Batch
from x2i_platform.training.losses import attention_kl

Student = Callable[..., Conditioning]
"""AlignNet or a wrapper of it: `student(states_BCSH, mask_BS=...)`."""


@dataclass(frozen=True)
class StepResult:
    """Loss of one micro-batch, its samples and its number of tokens."""

    loss: Tensor
    """For distillation the reference's loss: KL summed over taps, tokens and channels, divided by the batch size. It is
    an unbiased estimate from the tokens kept."""
    sample_ids: tuple[str, ...]
    num_tokens: int
    """Number of tokens of all taps of one sample: loss / num_tokens is the KL per token. 1 if the loss is already a
    mean."""


def distill_step(student: Student, *, teacher: Teacher, batch: Batch, config: TrainConfig) -> StepResult:
    """Compute the student's loss on one batch of precomputed targets."""
    # (B, C, S, H) -> prompt embeds (B, text tokens, E) and pooled (B, P). AlignNet trains in float32.
    conditioning = student(batch.states_BCSH.float(), mask_BS=batch.mask_BS)
    dtype = teacher.dit.dtype
    # Run the DiT with the student's conditioning on the latents and noise levels of the targets; record its attention.
    canvas_BNC = (
        teacher.noise(batch.seeds)
        if batch.canvas_BL is None
        else batch.canvas_BL.view(len(batch.seeds), teacher.num_image_tokens, -1)
    )
    with attention_taps(teacher.dit, tuple(batch.targets_BTD)) as outputs:
        teacher.forward(
            conditioning.prompt_embeds_BTE.to(dtype),
            pooled_BP=conditioning.pooled_BP.to(dtype),
            latents_BNC=canvas_BNC,
            sigma_B=teacher.sigmas(batch.seeds),
        )
    num_text = conditioning.prompt_embeds_BTE.shape[1]
    taps = [Tap.named(name) for name in outputs]
    # Padding `none` may give the student fewer text tokens than the teacher. Clamp the missing indices into range;
    # their weight below is zero.
    text_BT = batch.text_idx_BT.clamp_max(num_text - 1)
    # Positions of the kept tokens on each tap's axis: text tokens come before image tokens.
    kept = [tap.positions(text_idx=text_BT, image_idx=batch.image_idx_BT, num_text=num_text) for tap in taps]
    # Only some tokens were stored. Each counts as often as it stands for others, so the sum estimates that of all
    # tokens.
    text_weights_BT, image_weights_BT = _weights(batch, teacher=teacher, num_text=num_text)
    loss = attention_kl(
        # (B, N, D) -> (B, T, D): only the kept tokens have targets.
        [_gather(outputs[tap.name], kept_BT) for tap, kept_BT in zip(taps, kept, strict=True)],
        [batch.targets_BTD[tap.name] for tap in taps],
        weights=[tap.join(text=text_weights_BT, image=image_weights_BT) for tap in taps],
        temperature=config.temperature,
        direction=config.direction,
    )
    num_tokens = sum(tap.num_tokens(text=teacher.num_text_tokens, image=teacher.num_image_tokens) for tap in taps)
    return StepResult(loss, batch.sample_ids, num_tokens)


def _weights(batch: Batch, *, teacher: Teacher, num_text: int) -> tuple[Tensor, Tensor]:
    """Return the weights `(B, T)` of kept text and image tokens: the inverse of their probability to be drawn."""
    text_share = teacher.num_text_tokens / max(batch.text_idx_BT.shape[1], 1)
    image_share = teacher.num_image_tokens / max(batch.image_idx_BT.shape[1], 1)
    # A text token that the student doesn't have gets weight 0.
    text_BT = (batch.text_idx_BT < num_text).float() * text_share
    image_BT = torch.full_like(batch.image_idx_BT, 1, dtype=torch.float32) * image_share
    return text_BT, image_BT


def _gather(output_BND: Tensor, kept_BT: Tensor) -> Tensor:
    """Select tokens: `(B, N, D)` -> `(B, T, D)`."""
    return output_BND.gather(1, kept_BT.unsqueeze(-1).expand(-1, -1, output_BND.shape[-1]))
