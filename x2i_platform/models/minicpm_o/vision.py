"""The vision tower `vpm`: SigLIP on pictures of any size, whose position table is looked up by relative place.

Shape suffixes: N slices of one size, h and w patches down and across, K numbers of a patch, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SiglipVisionModel


def table_rows(count: int, *, side: int) -> Tensor:
    """Return the row of a position table of `side` rows for each of `count` patches, `(count,)`.

    Patch i lies at the fraction i / count. This is the released float32 arithmetic, on the CPU. With 25, 49, 50, 55 or
    58 patches on 70 rows, exact fractions and transformers' `get_vision_nearest_position_ids` give other rows.
    """
    step = float(1 / torch.tensor(count, dtype=torch.float32))
    fractions = torch.arange(0, 1 - 1e-6, step)
    boundaries = torch.arange(1 / side, 1.0, 1 / side)
    return torch.bucketize(fractions, boundaries, right=True)


class VisionTower(SiglipVisionModel):
    """SigLIP without its pooling head."""

    def forward(self, patches_NhwK: Tensor) -> Tensor:
        """Return the last layer's states after the final norm, `(N, h * w, D)`."""
        _, height, width, _ = patches_NhwK.shape
        side = self.embeddings.image_size // self.embeddings.patch_size
        rows = table_rows(height, side=side)[:, None] * side + table_rows(width, side=side)
        kernel = self.embeddings.patch_embedding
        # A convolution whose stride is its kernel is one linear map of every patch.
        patches = patches_NhwK.flatten(1, 2).to(kernel.weight.dtype)
        embedded = F.linear(patches, kernel.weight.flatten(1), kernel.bias)
        placed = embedded + self.embeddings.position_embedding(rows.flatten().to(embedded.device))
        states: Tensor = self.post_layernorm(self.encoder(inputs_embeds=placed).last_hidden_state)
        return states
