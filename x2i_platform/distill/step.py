"""The distillation step: MLLM states → AlignNet → frozen DiT → its attention outputs against the teacher's.

Shape suffixes: B batch, S tokens, T kept tokens, N tokens of a tap, D channels.

Pure PyTorch: no Ray, no DeepSpeed, no MLflow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from x2i_platform.config import TrainConfig
from x2i_platform.distill.data import Batch
from x2i_platform.distill.losses import attention_kl
from x2i_platform.models.alignnet import Conditioning
from x2i_platform.models.taps import attention_taps
from x2i_platform.models.teacher import Teacher

Student = Callable[..., Conditioning]
"""AlignNet, or whatever wraps it: `student(states_BCSH, mask_BS=...)`."""


@dataclass(frozen=True)
class StepResult:
    """Loss of one micro-batch, and what it is a mean of."""

    loss: Tensor
    """Distillation's is the reference's: KL summed over taps, tokens and channels, divided by the batch; estimated from
    the tokens kept so that its expectation is that of all tokens."""
    sample_ids: tuple[str, ...]
    num_tokens: int
    """Tokens, over all taps of one sample, that the loss stands for: loss / num_tokens is the KL per token. 1 where
    the loss is a mean as it is."""


def distill_step(student: Student, *, teacher: Teacher, batch: Batch, config: TrainConfig) -> StepResult:
    """Loss of the student on one batch of precomputed targets."""
    conditioning = student(batch.states_BCSH.float(), mask_BS=batch.mask_BS)
    dtype = teacher.dit.dtype
    with attention_taps(teacher.dit, tuple(batch.targets_BTD)) as taken:
        teacher.forward(
            conditioning.prompt_embeds_BTE.to(dtype),
            pooled_BP=conditioning.pooled_BP.to(dtype),
            latents_BNC=_canvas(batch, teacher=teacher),
            sigma_B=teacher.sigmas(batch.seeds),
        )
    num_text = conditioning.prompt_embeds_BTE.shape[1]
    kept = {tap: _kept(tap, batch=batch, num_text=num_text) for tap in taken}
    weights = {tap: _weights(tap, batch=batch, teacher=teacher, num_text=num_text) for tap in taken}
    loss = attention_kl(
        [_gather(output_BND, kept[tap]) for tap, output_BND in taken.items()],
        [batch.targets_BTD[tap] for tap in taken],
        weights=[weights[tap] for tap in taken],
        temperature=config.temperature,
        direction=config.direction,
    )
    return StepResult(loss, batch.sample_ids, sum(_stands_for(tap, teacher=teacher) for tap in taken))


def _canvas(batch: Batch, *, teacher: Teacher) -> Tensor:
    if batch.canvas_BL is None:
        return teacher.noise(batch.seeds)
    return batch.canvas_BL.view(len(batch.seeds), teacher.num_image_tokens, -1)


def _kept(tap: str, *, batch: Batch, num_text: int) -> Tensor:
    """Positions of the kept tokens on the tap's own token axis, `(B, T)`. A single block has its text tokens first."""
    # Without padding the student may have fewer text tokens than the teacher: `_weights` silences the rest.
    text_BT = batch.text_idx_BT.clamp_max(num_text - 1)
    if tap.endswith(".text"):
        return text_BT
    if tap.endswith(".image"):
        return batch.image_idx_BT
    return torch.cat([text_BT, batch.image_idx_BT + num_text], dim=1)


def _weights(tap: str, *, batch: Batch, teacher: Teacher, num_text: int) -> Tensor:
    """How many tokens each kept one stands for, `(B, T)`: the inverse of its chance to be drawn."""
    text_share = teacher.num_text_tokens / max(batch.text_idx_BT.shape[1], 1)
    image_share = teacher.num_image_tokens / max(batch.image_idx_BT.shape[1], 1)
    text_BT = (batch.text_idx_BT < num_text).float() * text_share
    image_BT = torch.full_like(batch.image_idx_BT, 1, dtype=torch.float32) * image_share
    if tap.endswith(".text"):
        return text_BT
    if tap.endswith(".image"):
        return image_BT
    return torch.cat([text_BT, image_BT], dim=1)


def _stands_for(tap: str, *, teacher: Teacher) -> int:
    if tap.endswith(".text"):
        return teacher.num_text_tokens
    if tap.endswith(".image"):
        return teacher.num_image_tokens
    return teacher.num_text_tokens + teacher.num_image_tokens


def _gather(output_BND: Tensor, kept_BT: Tensor) -> Tensor:
    return output_BND.gather(1, kept_BT.unsqueeze(-1).expand(-1, -1, output_BND.shape[-1]))
