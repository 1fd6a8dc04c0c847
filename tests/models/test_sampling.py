"""Drawn tokens follow the distribution, and each prompt's only its own seed."""

from __future__ import annotations

import pytest
import torch

from x2i_platform.config import AnswerConfig
from x2i_platform.models.sampling import Sampler

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0])


def draws(config: AnswerConfig, *, seeds: list[int]) -> torch.Tensor:
    ids = torch.zeros(len(seeds), 1, dtype=torch.long)
    noisy = Sampler(config, seeds=seeds).processors()(ids, LOGITS.repeat(len(seeds), 1))
    chosen: torch.Tensor = noisy.argmax(-1)
    return chosen


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    found = draws(AnswerConfig(temperature=temperature), seeds=list(range(4000)))
    shares = torch.bincount(found, minlength=4) / len(found)
    torch.testing.assert_close(shares, (LOGITS / temperature).softmax(-1), rtol=0, atol=0.03)


def test_top_p_keeps_the_likeliest_tokens_alone() -> None:
    """The two likeliest have 0.88 of the probability together; 0.8 needs both."""
    found = draws(AnswerConfig(temperature=1.0, top_p=0.8), seeds=list(range(500)))
    assert set(found.tolist()) == {0, 1}


def test_a_draw_depends_on_its_own_seed() -> None:
    config = AnswerConfig(temperature=2.0)
    together = draws(config, seeds=[5, 6, 7, 8])
    alone = [int(draws(config, seeds=[seed])) for seed in (5, 6, 7, 8)]
    assert together.tolist() == alone


def test_without_a_temperature_nothing_is_drawn() -> None:
    assert not Sampler(AnswerConfig(top_p=0.5), seeds=()).processors()
