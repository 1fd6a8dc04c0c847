"""Random draws for a sample: prompt or answer states, and the tokens that are kept.

Invariant: every draw depends only on the sample's id and the recipe, so it is the same in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2i_platform.config import MLLMConfig, Recipe, States, TargetsConfig
from x2i_platform.features.schema import sample_seed


def states_kind(sample_id: str, *, config: MLLMConfig) -> States:
    """Return whether a sample has prompt or answer states. With `mixed` its id decides."""
    if config.states != "mixed":
        return config.states
    return "answer" if sample_seed(sample_id, seed=0, purpose="states") % 2 else "prompt"


def prompt_limit(sample_id: str, *, recipe: Recipe) -> int:
    """Return the maximum number of a caption's tokens in the MLLM's templates.

    It is `mllm.max_tokens`. If AlignNet learns from prompt states and pads, `teacher.text_tokens` is a limit too.
    """
    learns = states_kind(sample_id, config=recipe.mllm) == "prompt" and recipe.alignnet.padding != "none"
    return min(recipe.mllm.max_tokens, recipe.teacher.text_tokens) if learns else recipe.mllm.max_tokens


def draw_tokens(sample_id: str, *, config: TargetsConfig, num_text: int, num_image: int) -> tuple[Tensor, Tensor]:
    """Draw the text and image tokens kept for a sample: two sorted index tensors, without replacement."""
    generator = torch.Generator().manual_seed(sample_seed(sample_id, seed=config.seed, purpose="tokens"))

    def draw(kept: int | str, total: int) -> Tensor:
        count = total if kept == "all" else min(int(kept), total)
        return torch.randperm(total, generator=generator)[:count].sort().values

    return draw(config.text_tokens, num_text), draw(config.image_tokens, num_image)
