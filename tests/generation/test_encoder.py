"""Prompts to conditioning: alone or in a batch, with one AlignNet or several over one MLLM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.errors import WeightsError
from x2i_platform.generation.encoder import Encoder
from x2i_platform.recipes import override

SETTINGS = GenerateConfig(num_inference_steps=2, width=64, height=64)
PROMPTS = ("a red circle", "a photo of two small green triangles left of a large blue square " * 4, "ring")


@pytest.mark.parametrize("padding", ["zero", "none"])
@pytest.mark.parametrize("states", ["prompt", "answer", "both"])
def test_a_prompt_longer_than_the_teachers_text_gives_its_neighbours_no_padding(
    make_model: Callable[..., Path], mini_recipe: Recipe, padding: str, states: str
) -> None:
    encoder = Encoder.load(make_model(override(mini_recipe, [f"alignnet.padding={padding}"])))
    settings = SETTINGS.model_copy(update={"states": states})
    together = encoder.encode(PROMPTS, seeds=(1, 2, 3), settings=settings)
    for seed, (prompt, encoded) in enumerate(zip(PROMPTS, together, strict=True), start=1):
        [alone] = encoder.encode([prompt], seeds=(seed,), settings=settings)
        assert alone.answer == encoded.answer
        torch.testing.assert_close(alone.prompt_embeds_TE, encoded.prompt_embeds_TE, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.pooled_P, encoded.pooled_P, atol=1e-4, rtol=1e-4)
    assert encoder.encode([], seeds=(), settings=settings) == []


def test_alignnets_share_one_mllm(make_model: Callable[..., Path], mini_recipe: Recipe) -> None:
    first = Encoder.load(make_model(mini_recipe))
    other = make_model(override(mini_recipe, ["alignnet.init_seed=7", "generate.num_inference_steps=3"]))
    second = first.beside(other)
    assert second.mllm is first.mllm
    assert second.recipe.generate.num_inference_steps == 3
    [mine], [its] = (each.encode(["a"], seeds=[1], settings=SETTINGS) for each in (first, second))
    assert not torch.allclose(mine.pooled_P, its.pooled_P)
    [alone] = Encoder.load(other).encode(["a"], seeds=[1], settings=SETTINGS)
    assert torch.equal(its.prompt_embeds_TE, alone.prompt_embeds_TE)
    with pytest.raises(WeightsError, match="AlignNet reads 9 layers"):
        first.beside(make_model(mini_recipe, num_layers=9))
