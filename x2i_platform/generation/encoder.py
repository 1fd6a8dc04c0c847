"""The first half of generation: prompts become the DiT's conditioning.

    prompt ──► MLLM ──► AlignNet ──► conditioning

Invariant: a prompt's conditioning does not depend on its neighbours in a batch.

Shape suffixes: B batch, C MLLM layers + 1, S input tokens, H hidden width, T text tokens, E prompt width, P pooled
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from x2i_platform.config import GenerateConfig, Recipe, States
from x2i_platform.errors import WeightsError
from x2i_platform.models.alignnet import AlignNet, pad_states
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.model_folder import load_alignnet, read_recipe
from x2i_platform.models.prompts import Prompt


class Encoded(NamedTuple):
    """One prompt's conditioning, and what the MLLM answered if the answer's states made it."""

    prompt_embeds_TE: Tensor
    pooled_P: Tensor
    answer: str | None = None


class Encoder:
    """An MLLM with an AlignNet."""

    def __init__(self, recipe: Recipe, *, alignnet: AlignNet, mllm: MLLM) -> None:
        """Join loaded models. Raises WeightsError if AlignNet was made for another MLLM or another DiT."""
        self.recipe, self.alignnet, self.mllm = recipe, alignnet, mllm
        dit, dims = dit_dims(recipe.teacher.model, revision=recipe.teacher.revision), alignnet.dims
        if (dit.joint_dim, dit.pooled_dim) != (dims.prompt_dim, dims.pooled_dim):
            raise WeightsError(
                f"AlignNet writes embeds of width {dims.prompt_dim} and {dims.pooled_dim}, the DiT of "
                f"'{recipe.teacher.model}' reads {dit.joint_dim} and {dit.pooled_dim}"
            )
        found = (mllm.num_layers_plus_one, mllm.hidden_size)
        if found != (dims.num_layers, dims.hidden_size):
            raise WeightsError(
                f"AlignNet reads {dims.num_layers} layers of width {dims.hidden_size}, MLLM '{recipe.mllm.model}' "
                f"gives {found[0]} of width {found[1]}"
            )

    @classmethod
    def load(cls, folder: Path, *, recipe: Recipe | None = None, device: str = "cpu") -> Self:
        """Load a model folder's AlignNet and the MLLM that its recipe names, or another recipe derived from it.

        Raises WeightsError if the recipe or the weights are missing or don't fit.
        """
        recipe = recipe or read_recipe(folder)
        alignnet = load_alignnet(folder, device=device).eval().requires_grad_(False)
        return cls(recipe, alignnet=alignnet, mllm=MLLM.load(recipe.mllm, device=device))

    def beside(self, folder: Path) -> Self:
        """Load another AlignNet over the same MLLM, read by this recipe's settings of it.

        Raises WeightsError if its sizes don't fit.
        """
        recipe = read_recipe(folder)
        alignnet = load_alignnet(folder, device=self.mllm.model.device).eval().requires_grad_(False)
        return type(self)(recipe, alignnet=alignnet, mllm=self.mllm)

    @torch.inference_mode()
    def encode(
        self, prompts: Sequence[str | Prompt], *, seeds: Sequence[int], settings: GenerateConfig
    ) -> list[Encoded]:
        """Return each prompt's conditioning. A prompt's seed decides its answer if that is drawn.

        Raises PromptTooLong for a prompt of more tokens than the MLLM was asked to take.
        """
        answers: list[str | None]
        if settings.states == "prompt":
            states, answers = self._states(prompts, states="prompt"), [None] * len(prompts)
        else:
            found = self.mllm.answers(prompts, both=settings.states == "both", sampling=settings.answer, seeds=seeds)
            states, answers = [each.states_CSH for each in found], [each.text for each in found]
        return [
            Encoded(prompt_embeds_TE, pooled_P, answer)
            for (prompt_embeds_TE, pooled_P), answer in zip(self._align(states), answers, strict=True)
        ]

    @torch.inference_mode()
    def condition(self, prompts: Sequence[str | Prompt], *, states: States) -> Conditioning:
        """The conditioning of prompts, or of greedy answers, as one batch. Raises PromptTooLong."""
        return self._align_together(self._states(prompts, states=states))

    def _states(self, prompts: Sequence[str | Prompt], *, states: States) -> list[Tensor]:
        pad_to = self.recipe.teacher.text_tokens if self.recipe.alignnet.padding == "reference" else None
        return self.mllm.encode(prompts, states=states, pad_to=pad_to)

    def _align(self, states: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each prompt's conditioning from its states `(C, S_i, H)`.

        The DiT has no mask for text, so nobody may get padding that he doesn't get alone: only prompts that are padded
        to one length go through AlignNet together.
        """
        shortest = 0 if self.recipe.alignnet.padding == "none" else self.recipe.teacher.text_tokens
        lengths = [max(shortest, one_CSH.shape[1]) for one_CSH in states]
        aligned: dict[int, tuple[Tensor, Tensor]] = {}
        for length in dict.fromkeys(lengths):
            rows = [row for row, found in enumerate(lengths) if found == length]
            together = self._align_together([states[row] for row in rows])
            aligned.update(zip(rows, zip(*together, strict=True), strict=True))
        return [aligned[row] for row in range(len(states))]

    def _align_together(self, states: Sequence[Tensor]) -> Conditioning:
        states_BCSH, mask_BS = pad_states(
            states, text_tokens=self.recipe.teacher.text_tokens, padding=self.recipe.alignnet.padding
        )
        conditioning: Conditioning = self.alignnet(states_BCSH, mask_BS=mask_BS)
        return conditioning
