"""The warm start: AlignNet regresses onto the outputs of T5 and CLIP before distillation, without the DiT.

Shape suffixes: B batch, C MLLM layers + 1, S tokens, H hidden width, T text tokens, E prompt width, P pooled width.

Invariants: it reads tables `mllm` and `text`, never `targets`; pure PyTorch, without Ray, DeepSpeed or MLflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2i_platform.config import Padding, TrainConfig
from x2i_platform.features.reader import TextRow, TextSample, TextShardReader
from x2i_platform.features.schema import MLLM, TEXT
from x2i_platform.training.data import ShardDataset, StatesBatch, pad_samples
from x2i_platform.training.step import StepResult, Student

FINAL_RATE = 0.1
"""Share of the peak learning rate at the last step."""


class TextDataset(ShardDataset[TextSample]):
    """Samples for the warm start."""

    tables = (MLLM, TEXT)
    reader = TextShardReader


@dataclass(frozen=True)
class TextBatch(StatesBatch):
    """A batch of the warm start: states and the text encoders' outputs."""

    prompt_embeds_BTE: Tensor
    pooled_BP: Tensor


@dataclass(frozen=True)
class TextCollate:
    """Collates samples. A dataclass, so it can be sent to a loader process."""

    padding: Padding
    text_tokens: int

    def __call__(self, samples: Sequence[TextSample]) -> TextBatch:
        """Make one batch. Raises TrainingError like `pad_samples`."""
        states = pad_samples(samples, padding=self.padding, text_tokens=self.text_tokens)
        return TextBatch(
            **vars(states),
            prompt_embeds_BTE=torch.stack([sample.text.prompt_embeds_TE for sample in samples]),
            pooled_BP=torch.stack([sample.text.pooled_P for sample in samples]),
        )


@dataclass(frozen=True)
class Spread:
    """Variances of T5's tokens and of CLIP's vector, over all their numbers. They make the two errors comparable."""

    prompt_embeds: float
    pooled: float


def spread_of(rows: Iterable[TextRow]) -> Spread:
    """Compute the variances over some captions, one row in memory at a time.

    A row of FLUX.1's T5 has two million numbers, so only its mean and mean square are kept.
    """
    parts = [(_moments(row.prompt_embeds_TE), _moments(row.pooled_P)) for row in rows]
    variances = []
    for moments in zip(*parts, strict=True):
        # (captions, 2) -> mean and mean square over all captions. The variance is E[x²] - E[x]².
        mean, mean_square = torch.stack(moments).mean(0)
        variances.append(float(mean_square - mean.square()))
    return Spread(*variances)


def _moments(values: Tensor) -> Tensor:
    """Return mean and mean square in float64, because the variance is their difference."""
    return torch.stack([values.double().mean(), values.double().square().mean()])


def warm_start_step(student: Student, *, batch: TextBatch, spread: Spread) -> StepResult:
    """Compute the mean squared errors of the prompt embeds and of the pooled vector, each divided by its variance.

    Padded positions count too, because the DiT sees them. A student that always returns the mean has a loss of 2.
    """
    # (B, C, S, H) -> (B, T, E) and (B, P).
    prompt_embeds_BTE, pooled_BP = student(batch.states_BCSH.float(), mask_BS=batch.mask_BS)
    # The division by the variances gives both errors the same weight.
    loss = _squared_error(prompt_embeds_BTE, batch.prompt_embeds_BTE) / spread.prompt_embeds
    loss = loss + _squared_error(pooled_BP, batch.pooled_BP) / spread.pooled
    return StepResult(loss, batch.sample_ids, num_tokens=1)


def _squared_error(output: Tensor, goal: Tensor) -> Tensor:
    return (output.float() - goal.float()).square().mean()


def warm_start_rate(step: int, *, config: TrainConfig) -> float:
    """Return the rate of a step from 0: linear warm-up, then half a cosine down to a tenth at the last step."""
    peak, rising = config.warm_start_lr, config.warmup_steps
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step + 1 - rising) / (config.warm_start_steps - rising)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))
