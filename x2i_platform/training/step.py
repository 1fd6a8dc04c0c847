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
"""AlignNet, or whatever wraps it: `student(states_BCSH, mask_BS=...)`."""


@dataclass(frozen=True)
class StepResult:
    """Loss of one micro-batch, and the number of tokens it stands for."""

    loss: Tensor
    """The reference's loss in distillation: KL summed over taps, tokens and channels, divided by the batch size. It
    is estimated from the kept tokens, and its expectation is that of all tokens."""
    sample_ids: tuple[str, ...]
    num_tokens: int
    """Tokens over all taps of one sample, so that loss / num_tokens is the KL per token. 1 if the loss is a mean
    already."""


def distill_step(student: Student, *, teacher: Teacher, batch: Batch, config: TrainConfig) -> StepResult:
    """Loss of the student on one batch of precomputed targets."""
    # AlignNet: MLLM states (B, C, S, H) -> conditioning. The weights are float32, so the states are too.
    conditioning = student(batch.states_BCSH.float(), mask_BS=batch.mask_BS)
    # The frozen DiT runs under the student's conditioning, on the canvas and at the noise level that the teacher had.
    dtype = teacher.dit.dtype
    with attention_taps(teacher.dit, tuple(batch.targets_BTD)) as taken:
        teacher.forward(
            conditioning.prompt_embeds_BTE.to(dtype),
            pooled_BP=conditioning.pooled_BP.to(dtype),
            latents_BNC=_canvas(batch, teacher=teacher),
            sigma_B=teacher.sigmas(batch.seeds),
        )
    num_text = conditioning.prompt_embeds_BTE.shape[1]
    taps = [Tap.named(name) for name in taken]
    # Only some tokens of each output were stored: find the same ones in the student's outputs.
    # Without padding the student may have fewer text tokens than the teacher: a weight of zero silences the rest.
    text_BT = batch.text_idx_BT.clamp_max(num_text - 1)
    kept = [tap.positions(text_idx=text_BT, image_idx=batch.image_idx_BT, num_text=num_text) for tap in taps]
    text_weights_BT, image_weights_BT = _weights(batch, teacher=teacher, num_text=num_text)
    # Each kept token stands for several, so the weighted sum estimates the loss over all tokens.
    loss = attention_kl(
        [_gather(taken[tap.name], kept_BT) for tap, kept_BT in zip(taps, kept, strict=True)],
        [batch.targets_BTD[tap.name] for tap in taps],
        weights=[tap.join(text=text_weights_BT, image=image_weights_BT) for tap in taps],
        temperature=config.temperature,
        direction=config.direction,
    )
    stands_for = sum(tap.num_tokens(text=teacher.num_text_tokens, image=teacher.num_image_tokens) for tap in taps)
    return StepResult(loss, batch.sample_ids, stands_for)


def _canvas(batch: Batch, *, teacher: Teacher) -> Tensor:
    if batch.canvas_BL is None:
        return teacher.noise(batch.seeds)
    return batch.canvas_BL.view(len(batch.seeds), teacher.num_image_tokens, -1)


def _weights(batch: Batch, *, teacher: Teacher, num_text: int) -> tuple[Tensor, Tensor]:
    """Text and image tokens that each kept one stands for, `(B, T)`: the inverse of its chance to be drawn."""
    text_share = teacher.num_text_tokens / max(batch.text_idx_BT.shape[1], 1)
    image_share = teacher.num_image_tokens / max(batch.image_idx_BT.shape[1], 1)
    text_BT = (batch.text_idx_BT < num_text).float() * text_share
    image_BT = torch.full_like(batch.image_idx_BT, 1, dtype=torch.float32) * image_share
    return text_BT, image_BT


def _gather(output_BND: Tensor, kept_BT: Tensor) -> Tensor:
    return output_BND.gather(1, kept_BT.unsqueeze(-1).expand(-1, -1, output_BND.shape[-1]))
