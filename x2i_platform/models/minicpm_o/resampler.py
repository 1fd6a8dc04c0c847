"""The resampler: learned queries that look at a slice's patches once and give the LLM a fixed number of tokens.

Shape suffixes: N slices of one size, P patches of a slice, D channels of the tower, Q queries, H hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_EPS = 1e-6
HEAD_WIDTH = 128


def sincos_positions(height: int, width: int, *, channels: int) -> Tensor:
    """Return float32 position vectors `(height * width, channels)`, row by row.

    The first half of the channels encodes the column, the second the row; of each, the first half holds sines, the
    second cosines, at the frequencies of the Transformer (`get_2d_sincos_pos_embed` in the released `resampler.py`).
    """
    quarter = channels // 4
    frequencies = 10_000.0 ** -(torch.arange(quarter, dtype=torch.float32) / quarter)

    def waves(count: int) -> Tensor:
        angles = torch.outer(torch.arange(count, dtype=torch.float32), frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    columns = waves(width).expand(height, width, -1)
    rows = waves(height)[:, None].expand(height, width, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1)


class Resampler(nn.Module):
    """Cross-attention of `num_queries` learned queries over patches, then a projection."""

    def __init__(self, num_queries: int, *, patch_width: int, hidden_size: int) -> None:
        """Raise ValueError for a hidden size that isn't a multiple of the width of a head."""
        super().__init__()
        if hidden_size % HEAD_WIDTH:
            raise ValueError(f"hidden_size {hidden_size} isn't a multiple of {HEAD_WIDTH}, the resampler's heads")
        self.query = nn.Parameter(torch.zeros(num_queries, hidden_size))
        self.kv_proj = nn.Linear(patch_width, hidden_size, bias=False)
        self.attn = nn.MultiheadAttention(hidden_size, hidden_size // HEAD_WIDTH, batch_first=True)
        self.ln_q = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.ln_kv = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.ln_post = nn.LayerNorm(hidden_size, eps=NORM_EPS)
        self.proj = nn.Parameter(hidden_size**-0.5 * torch.randn(hidden_size, hidden_size))

    def forward(self, patches_NPD: Tensor, *, height: int, width: int) -> Tensor:
        """Return `(N, Q, H)`. P = height * width."""
        values_NPH = self.ln_kv(self.kv_proj(patches_NPD))
        positions_PH = sincos_positions(height, width, channels=values_NPH.shape[2])
        keys_NPH = values_NPH + positions_PH.to(values_NPH)  # keys alone know where a patch lies
        queries_NQH = self.ln_q(self.query).expand(len(values_NPH), -1, -1)
        seen_NQH, _ = self.attn(queries_NQH, keys_NPH, values_NPH, need_weights=False)
        tokens_NQH: Tensor = self.ln_post(seen_NQH) @ self.proj
        return tokens_NQH
