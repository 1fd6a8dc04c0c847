"""The warm start: AlignNet regresses onto what T5 and CLIP make of a caption, before the DiT takes part.

Shape suffixes: B batch, C MLLM layers + 1, S tokens, H hidden width, T text tokens, E prompt width, P pooled width.

Invariants: reads tables `mllm` and `text`, never `targets`; pure PyTorch, without Ray, DeepSpeed or MLflow.
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
"""Share of the learning rate at the last step."""


class TextDataset(ShardDataset[TextSample]):
    """Samples for the warm start."""

    tables = (MLLM, TEXT)
    reader = TextShardReader


@dataclass(frozen=True)
class TextBatch(StatesBatch):
    """Inputs of a warm start step."""

    prompt_embeds_BTE: Tensor
    pooled_BP: Tensor


@dataclass(frozen=True)
class TextCollate:
    """Puts samples side by side; a value, so that a loader process can be sent one."""

    padding: Padding
    text_tokens: int

    def __call__(self, samples: Sequence[TextSample]) -> TextBatch:
        """One batch. Raises TrainingError as `pad_samples` does."""
        states = pad_samples(samples, padding=self.padding, text_tokens=self.text_tokens)
        return TextBatch(
            **vars(states),
            prompt_embeds_BTE=torch.stack([sample.text.prompt_embeds_TE for sample in samples]),
            pooled_BP=torch.stack([sample.text.pooled_P for sample in samples]),
        )


@dataclass(frozen=True)
class Spread:
    """Variances of T5's tokens and of CLIP's vector, each over all numbers: they make the two errors comparable."""

    prompt_embeds: float
    pooled: float


def spread_of(rows: Iterable[TextRow]) -> Spread:
    """Variances over some captions, read one at a time: a row of FLUX.1's T5 has two million numbers."""
    parts = [(_moments(row.prompt_embeds_TE), _moments(row.pooled_P)) for row in rows]
    return Spread(*(_variance(torch.stack(moments)) for moments in zip(*parts, strict=True)))


def _moments(values: Tensor) -> Tensor:
    """Mean and mean square. Float64: their difference is to be taken."""
    return torch.stack([values.double().mean(), values.double().square().mean()])


def _variance(moments: Tensor) -> float:
    mean, mean_square = moments.mean(0)
    return float(mean_square - mean.square())


def warm_start_step(student: Student, *, batch: TextBatch, spread: Spread) -> StepResult:
    """Mean squared error over all T positions, padded ones too because the DiT sees them, plus that of the pooled
    vector.

    Each is divided by its variance: an AlignNet that returns only the means would have a loss of 2.
    """
    prompt_embeds_BTE, pooled_BP = student(batch.states_BCSH.float(), mask_BS=batch.mask_BS)
    # Divided by their variances, tokens and pooled vector weigh the same, whatever their scales.
    loss = _squared_error(prompt_embeds_BTE, batch.prompt_embeds_BTE) / spread.prompt_embeds
    loss = loss + _squared_error(pooled_BP, batch.pooled_BP) / spread.pooled
    return StepResult(loss, batch.sample_ids, num_tokens=1)


def _squared_error(output: Tensor, goal: Tensor) -> Tensor:
    return (output.float() - goal.float()).square().mean()


def warm_start_rate(step: int, *, config: TrainConfig) -> float:
    """Linear warm-up, then half a cosine to a tenth, which the last step has. Steps count from 0."""
    peak, rising = config.warm_start_lr, config.warmup_steps
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step + 1 - rising) / (config.warm_start_steps - rising)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))
