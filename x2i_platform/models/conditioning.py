"""The conditioning that the DiT takes from a prompt. The pipeline's text encoders or AlignNet make it.

Shape suffixes: B batch, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Conditioning(NamedTuple):
    """The two text conditionings of FLUX.1 and of Stable Diffusion 3."""

    prompt_embeds_BTE: Tensor
    """T5's tokens (in SD3 after CLIP's), padded to T without an attention mask, or AlignNet's tokens in their place."""
    pooled_BP: Tensor
    """CLIP's pooled vector, or AlignNet's."""
