from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from x2i_platform.models.minicpm_o.vision import table_rows


@pytest.mark.parametrize("count", [1, 2, 7, 14, 32, 37, 70])
def test_patches_lie_at_their_fraction_of_the_table(count: int) -> None:
    assert table_rows(count, side=70).tolist() == [place * 70 // count for place in range(count)]


def test_float32_decides_at_the_borders_of_rows() -> None:
    """What the released lines gave, with torch's `arange` with and without AVX: a patch on a border may lie before it.

    For each number of patches: the patches whose row is one less than that of exact fractions.
    """
    before = {
        count: [
            place for place, row in enumerate(table_rows(count, side=70).tolist()) if row == place * 70 // count - 1
        ]
        for count in range(1, 71)
    }
    assert {count: places for count, places in before.items() if places} == {
        25: [5, 10, 15, 20],
        49: [7, 14, 35, 42],
        50: [5, 10, 15, 20, 30, 40],
        55: [11, 22, 33, 44],
        58: [29],
    }


def test_strips_longer_than_the_table_have_a_row_for_every_patch() -> None:
    for count in range(71, 1100):
        rows = table_rows(count, side=70)
        assert (len(rows), int(rows[0]), int(rows[-1])) == (count, 0, 69)
        assert (rows.diff() >= 0).all()


@torch.no_grad()
def test_padding_with_a_mask_as_released_gives_the_same(body: Any) -> None:
    """The released code pads slices of several sizes to the longest; here each size runs by itself."""
    tower, generator = body.vpm, torch.Generator().manual_seed(0)
    grids = [(4, 4), (2, 5), (1, 3)]
    pictures = [torch.randn(1, 3, 14 * height, 14 * width, generator=generator) for height, width in grids]
    embedded = []
    for picture, (height, width) in zip(pictures, grids, strict=True):
        convolved = tower.embeddings.patch_embedding(picture).flatten(2)[0].T
        rows = [row * 7 // height * 7 + column * 7 // width for row in range(height) for column in range(width)]
        embedded.append(convolved + tower.embeddings.position_embedding(torch.tensor(rows)))
    padded = torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True)
    valid = torch.arange(padded.shape[1]) < torch.tensor([[height * width] for height, width in grids])
    mask = torch.zeros(valid.shape).masked_fill(~valid, torch.finfo(torch.float32).min)[:, None, None]
    together = tower.post_layernorm(
        tower.encoder(inputs_embeds=padded, attention_mask=mask.expand(-1, 1, padded.shape[1], -1)).last_hidden_state
    )
    for picture, (height, width), expected in zip(pictures, grids, together, strict=True):
        alone = tower(patches(picture[0], height=height, width=width)[None])[0]
        torch.testing.assert_close(alone, expected[: height * width], rtol=1e-4, atol=1e-4)


def patches(picture_cHW: Tensor, *, height: int, width: int) -> Tensor:
    return picture_cHW.view(3, height, 14, width, 14).permute(1, 3, 0, 2, 4).flatten(2)


def test_the_pooling_head_is_not_there(body: Any) -> None:
    assert not any("head" in name for name, _ in body.vpm.named_parameters())
