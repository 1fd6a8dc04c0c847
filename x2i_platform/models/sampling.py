"""Draws the tokens of answers, each prompt from its own seed, so that an answer doesn't depend on its neighbours.

transformers draws a whole batch from one generator. Here noise is added to the logits instead, from one generator a
prompt, and the largest sum is a draw from the distribution (the Gumbel-max trick: Maddison et al., 2014).

Shape suffixes: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from x2i_platform.config import AnswerConfig


class Sampler:
    """The logits processors after which the greedy choice is a draw, or that leave it greedy."""

    def __init__(self, config: AnswerConfig, *, seeds: Sequence[int]) -> None:
        self._config, self._seeds = config, tuple(seeds)

    def processors(self) -> LogitsProcessorList:
        """Return fresh processors: none for temperature 0."""
        if not self._config.temperature:
            return LogitsProcessorList()
        warpers = [TemperatureLogitsWarper(float(self._config.temperature))]
        if self._config.top_p < 1:
            warpers.append(TopPLogitsWarper(self._config.top_p))
        return LogitsProcessorList([*warpers, _GumbelNoise(self._seeds)])


class _GumbelNoise:
    """Adds standard Gumbel noise to the logits of each prompt, drawn on the CPU from its seed."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the noisy logits `(B, V)`."""
        uniform_BV = torch.stack([torch.rand(scores.shape[-1], generator=each) for each in self._generators])
        noise_BV = -(-uniform_BV.clamp_min(torch.finfo(torch.float32).tiny).log()).log()
        return scores + noise_BV.to(scores)
