from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from x2i_platform.mini.random.weights import fill
from x2i_platform.models.minicpm_o.resampler import Resampler, sincos_positions


def test_positions_are_sines_and_cosines_of_column_then_row() -> None:
    channels, height, width = 24, 3, 5
    positions = sincos_positions(height, width, channels=channels)
    quarter = channels // 4
    for row in range(height):
        for column in range(width):
            expected = [
                wave(place / 10_000 ** (index / quarter))
                for place in (column, row)
                for wave in (math.sin, math.cos)
                for index in range(quarter)
            ]
            found = positions[row * width + column].tolist()
            assert found == pytest.approx(expected, abs=1e-6)


def test_far_positions_keep_their_precision() -> None:
    """A strip of 1024 patches is as long as they get; angles of a thousand radians in float32 are right to 1e-4."""
    far = sincos_positions(1024, 1, channels=8)[1023]
    assert far[4].item() == pytest.approx(math.sin(1023), abs=1e-4)
    assert far[7].item() == pytest.approx(math.cos(1023 / 100), abs=1e-4)


def norm(values: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


@torch.no_grad()
def test_it_is_one_cross_attention_whose_keys_alone_have_positions() -> None:
    resampler = Resampler(5, patch_width=24, hidden_size=256).eval()
    fill(resampler, seed=1)
    patches_NPD = torch.randn(2, 12, 24, generator=torch.Generator().manual_seed(0))
    tokens_NQH = resampler(patches_NPD, height=3, width=4)

    (wq, wk, wv), (bq, bk, bv) = resampler.attn.in_proj_weight.chunk(3), resampler.attn.in_proj_bias.chunk(3)
    queries = norm(resampler.query, resampler.ln_q) @ wq.T + bq
    for patches_PD, tokens_QH in zip(patches_NPD, tokens_NQH, strict=True):
        values = norm(patches_PD @ resampler.kv_proj.weight.T, resampler.ln_kv)
        keys = (values + sincos_positions(3, 4, channels=256)) @ wk.T + bk
        heads = []
        for start in range(0, 256, 128):
            part = slice(start, start + 128)
            scores = queries[:, part] @ keys[:, part].T / math.sqrt(128)
            heads.append(scores.softmax(-1) @ (values @ wv.T + bv)[:, part])
        seen = torch.cat(heads, dim=-1) @ resampler.attn.out_proj.weight.T + resampler.attn.out_proj.bias
        expected_QH = norm(seen, resampler.ln_post) @ resampler.proj
        torch.testing.assert_close(tokens_QH, expected_QH, rtol=1e-4, atol=1e-5)


def test_a_width_that_has_no_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 100 isn't a multiple of 128"):
        Resampler(5, patch_width=24, hidden_size=100)
