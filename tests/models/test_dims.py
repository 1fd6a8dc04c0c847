"""The heads of AlignNet's T5 stack: those of the released code, or those that a recipe asks for."""

from __future__ import annotations

import pytest

from pipelines import RECIPES
from tests.random_models import RANDOM
from x2i_platform.errors import ConfigError
from x2i_platform.models.alignnet import AlignNetDims
from x2i_platform.models.dims import t5_attention
from x2i_platform.recipes import load


def test_heads_of_alignnets_stack_share_the_mllms_width() -> None:
    dims = AlignNetDims.of(load(RANDOM, shipped=RECIPES, overrides=["alignnet.t5_layers=1", "alignnet.t5_heads=4"]))
    assert (dims.t5_heads, dims.t5_head_dim, dims.hidden_size) == (4, 16, 64)
    with pytest.raises(ConfigError, match=r"alignnet\.t5_heads = 3 doesn't divide the MLLM's hidden width 64"):
        AlignNetDims.of(load(RANDOM, shipped=RECIPES, overrides=["alignnet.t5_heads=3"]))


@pytest.mark.parametrize(
    ("recipe", "overrides", "heads"),
    [
        ("flux-dev_qwen2.5-vl-7b", [], (28, 128)),
        ("flux-dev_qwen2.5-vl-3b", [], (28, 128)),  # more than the hidden width of 2048 has room for
        (RANDOM, ["alignnet.t5_heads=3", "alignnet.t5_head_dim=8"], (3, 8)),
        (RANDOM, ["alignnet.t5_head_dim=32"], (2, 32)),
    ],
)
def test_heads_of_the_stack_are_those_of_the_released_code(
    recipe: str, overrides: list[str], heads: tuple[int, int]
) -> None:
    config = load(recipe, shipped=RECIPES, overrides=overrides).alignnet
    hidden = {"flux-dev_qwen2.5-vl-7b": 3584, "flux-dev_qwen2.5-vl-3b": 2048, RANDOM: 64}[recipe]
    assert t5_attention(config, hidden_size=hidden) == heads
