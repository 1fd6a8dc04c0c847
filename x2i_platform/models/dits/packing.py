"""Latents as images `(B, c, H, W)` and as tokens `(B, N, C)`, C = 4 c: a token packs 2 x 2 latents, as in FLUX.1.

Shape suffixes: B batch, N image tokens, C packed latent channels; c latent channels, H and W sides in latents.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pack(latents_BcHW: Tensor) -> Tensor:
    """Pack latents into tokens, row by row: `(B, c, H, W)` -> `(B, H / 2 * W / 2, 4 c)`."""
    batch, channels, height, width = latents_BcHW.shape
    patches = latents_BcHW.view(batch, channels, height // 2, 2, width // 2, 2)
    # (B, c, H/2, 2, W/2, 2) -> (B, H/2, W/2, c, 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpack(latents_BNC: Tensor) -> Tensor:
    """Undo `pack` for a square canvas: `(B, N, 4 c)` -> `(B, c, H, H)`."""
    batch, tokens, packed = latents_BNC.shape
    side = math.isqrt(tokens)
    patches = latents_BNC.view(batch, side, side, packed // 4, 2, 2)
    # (B, H/2, W/2, c, 2, 2) -> (B, c, H/2, 2, W/2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, packed // 4, 2 * side, 2 * side)
