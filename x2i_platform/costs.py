"""What one caption costs at a recipe's sizes: bytes in each table, FLOPs of teacher and student."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from x2i_platform.config import Recipe
from x2i_platform.features.schema import MLLM, TARGETS, TEXT
from x2i_platform.models import flops
from x2i_platform.models.catalog import mllm_entry, teacher_entry
from x2i_platform.models.dits import ARCHITECTURES
from x2i_platform.models.entries import MLLMEntry, TeacherEntry
from x2i_platform.models.taps import Tap, select_taps

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TARGET_BYTES = {"bf16": (2, 0), "int8": (1, 2)}
"""By codec, for each channel: bytes a token and bytes a row; int8 has a float16 scale a channel beside it."""
CHARS_PER_TOKEN = 3.5
"""English under a byte-pair vocabulary has about 4; a little less keeps the estimate on the safe side."""
CHAT_TOKENS = 16
"""Tokens a chat template adds around the user turn, system prompt left out."""
ROW_OVERHEAD_BYTES = 300


@dataclass(frozen=True)
class Costs:
    """A recipe and the sizes of its two models, which are read once."""

    recipe: Recipe
    teacher: TeacherEntry
    mllm: MLLMEntry
    caption_chars: float
    """Mean length of a caption."""

    @classmethod
    def of(cls, recipe: Recipe, *, caption_chars: float) -> Costs:
        """Read the sizes of a recipe's models. Raises as `teacher_entry` does for an unknown model."""
        return cls(
            recipe,
            teacher_entry(recipe.teacher.model, revision=recipe.teacher.revision),
            mllm_entry(recipe.mllm.model, revision=recipe.mllm.revision),
            caption_chars,
        )

    def bytes_per_row(self) -> dict[str, int]:
        """Bytes of one caption in each table."""
        dit, config, mllm = self.teacher.dit, self.recipe.teacher, self.mllm.dims
        text = (config.text_tokens * dit.joint_dim + dit.pooled_dim) * DTYPE_BYTES[config.dtype]
        tokens = (1 - self._answering) * self._prompt_tokens + self._answering * self.recipe.mllm.answer_tokens
        states = math.ceil(mllm.num_states * tokens * mllm.hidden_size * DTYPE_BYTES[self.recipe.mllm.dtype])
        taps = select_taps(dit.tap_names, self.recipe.targets.taps)
        targets = sum(self._tap_bytes(Tap.named(name)) + ROW_OVERHEAD_BYTES for name in taps)
        if config.canvas == "estimate":
            targets += self._image_tokens * dit.in_channels * 2
        return {TEXT: text + ROW_OVERHEAD_BYTES, MLLM: states + ROW_OVERHEAD_BYTES, TARGETS: targets}

    def tokens_kept(self) -> tuple[int, int]:
        """Text and image tokens of each tap that are stored."""
        targets, text = self.recipe.targets, self.recipe.teacher.text_tokens
        return (
            text if targets.text_tokens == "all" else min(targets.text_tokens, text),
            self._image_tokens if targets.image_tokens == "all" else min(targets.image_tokens, self._image_tokens),
        )

    def teacher_flops(self) -> int:
        """FLOPs of `precompute` for one caption: T5, the DiT's forward, and the MLLM."""
        text_tokens = self.recipe.teacher.text_tokens
        t5_tokens = ARCHITECTURES[self.teacher.transformer].t5_tokens(self.recipe.teacher)
        forward = flops.dit_forward(self.teacher.dit, image_tokens=self._image_tokens, text_tokens=text_tokens)
        prefill = flops.mllm_prefill(self.mllm.dims, tokens=self._prompt_tokens)
        answer = flops.mllm_answer(
            self.mllm.dims, prompt_tokens=self._prompt_tokens, answer_tokens=self.recipe.mllm.answer_tokens
        )
        return (
            flops.t5_forward(self.teacher.t5, tokens=t5_tokens)
            # If the canvas is the teacher's estimate, that takes a forward of its own.
            + (2 if self.recipe.teacher.canvas == "estimate" else 1) * forward
            + math.ceil((1 - self._answering) * prefill + self._answering * answer)
        )

    def student_flops(self) -> int:
        """FLOPs of one sample of distillation: AlignNet, the DiT's forward, and the backward through both."""
        sizes = {"image_tokens": self._image_tokens, "text_tokens": self.recipe.teacher.text_tokens}
        # Checkpointed blocks are computed a second time in the backward pass.
        forward = (2 if self.recipe.train.gradient_checkpointing else 1) * flops.dit_forward(self.teacher.dit, **sizes)
        backward = flops.dit_backward_to_activations(self.teacher.dit, **sizes)
        return forward + backward + self.alignnet_flops()

    def alignnet_flops(self) -> int:
        """Forward and backward of AlignNet alone: one sample of the warm start."""
        forward = flops.alignnet(
            self.recipe.alignnet,
            mllm=self.mllm.dims,
            dit=self.teacher.dit,
            tokens=self.recipe.teacher.text_tokens,
        )
        return 3 * forward

    @property
    def _image_tokens(self) -> int:
        return self.teacher.dit.num_image_tokens(self.recipe.teacher.resolution)

    @property
    def _answering(self) -> Fraction:
        """Share of the captions with answer states."""
        return {"prompt": Fraction(0), "mixed": Fraction(1, 2), "answer": Fraction(1)}[self.recipe.mllm.states]

    @property
    def _prompt_tokens(self) -> int:
        """Estimated MLLM tokens of a caption, never more than the recipe allows."""
        if self.recipe.alignnet.padding == "reference":
            return self.recipe.teacher.text_tokens
        template_chars = len(self.recipe.mllm.template.format(caption=""))
        guess = CHAT_TOKENS + math.ceil((template_chars + self.caption_chars) / CHARS_PER_TOKEN)
        return min(guess, self.recipe.mllm.max_tokens)

    def _tap_bytes(self, tap: Tap) -> int:
        text, image = self.tokens_kept()
        tokens, width = tap.num_tokens(text=text, image=image), self.teacher.dit.inner_dim
        per_token, per_row = TARGET_BYTES[self.recipe.targets.codec]
        return (tokens * per_token + per_row) * width
