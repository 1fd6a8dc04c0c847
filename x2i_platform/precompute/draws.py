"""Random choices for a sample: whose hidden states it stores, and which tokens are kept.

Invariant: every choice is a function of the sample's id and the recipe alone, so it is the same in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2i_platform.config import MLLMConfig, Recipe, States, TargetsConfig
from x2i_platform.features.schema import sample_seed


def states_kind(sample_id: str, *, config: MLLMConfig) -> States:
    """Whose states are stored for a caption; `mixed` decides by its id, so it is the same in every run."""
    if config.states != "mixed":
        return config.states
    return "answer" if sample_seed(sample_id, seed=0, purpose="states") % 2 else "prompt"


def prompt_limit(sample_id: str, *, recipe: Recipe) -> int:
    """Most tokens that a caption may have in the MLLM's template.

    That is what the MLLM is asked to take; if AlignNet learns from prompt states, also what the teacher takes.
    """
    learns = states_kind(sample_id, config=recipe.mllm) == "prompt" and recipe.alignnet.padding != "none"
    return min(recipe.mllm.max_tokens, recipe.teacher.text_tokens) if learns else recipe.mllm.max_tokens


def draw_tokens(sample_id: str, *, config: TargetsConfig, num_text: int, num_image: int) -> tuple[Tensor, Tensor]:
    """Sorted indices of the text and of the image tokens kept for a sample, each drawn without replacement."""
    generator = torch.Generator().manual_seed(sample_seed(sample_id, seed=config.seed, purpose="tokens"))

    def draw(kept: int | str, total: int) -> Tensor:
        count = total if kept == "all" else min(int(kept), total)
        return torch.randperm(total, generator=generator)[:count].sort().values

    return draw(config.text_tokens, num_text), draw(config.image_tokens, num_image)
