"""The moving average, called as AlignNet is."""

from __future__ import annotations

import pytest
import torch

from x2i_platform.config import AlignNetConfig, TrainConfig
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.training.average import MovingAverage

DIMS = AlignNetDims(num_layers=3, hidden_size=16, text_tokens=5, prompt_dim=8, pooled_dim=5, t5_heads=2, t5_head_dim=8)


@pytest.mark.parametrize("t5_layers", [0, 1])
def test_it_answers_as_an_alignnet_with_the_mean_weights(t5_layers: int) -> None:
    config = AlignNetConfig(t5_layers=t5_layers)
    first, second, mean = (AlignNet(config.model_copy(update={"init_seed": seed}), dims=DIMS) for seed in range(3))
    average = MovingAverage(first, config=TrainConfig(ema=0.75, precision="float32"))
    for each in (first, second):
        average.update(dict(each.named_parameters()))
    moved = {name: 0.75 * weight + 0.25 * second.state_dict()[name] for name, weight in first.state_dict().items()}
    mean.load_state_dict(moved)
    states, mask = torch.randn(2, 3, 5, 16), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        for mine, expected in zip(average(states, mask_BS=mask), mean(states, mask_BS=mask), strict=True):
            torch.testing.assert_close(mine, expected)
    assert not any(weight.requires_grad for weight in average.weights.values())
