"""FLUX's two text encoders. They turn captions into the conditioning that the teacher was trained with.

Shape suffixes: B batch, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Self

import diffusers
import torch
import transformers

from x2i_platform.config import TeacherConfig
from x2i_platform.models.components import load_frozen, load_part
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.weights import locate


class TextEncoders:
    """T5 and CLIP of a FLUX pipeline, driven by diffusers' own `FluxPipeline.encode_prompt`."""

    def __init__(self, pipeline: diffusers.FluxPipeline, *, config: TeacherConfig) -> None:
        pipeline.tokenizer_max_length = config.clip_tokens
        self._pipeline = pipeline
        self._text_tokens = config.text_tokens

    @classmethod
    def load(cls, config: TeacherConfig, *, device: str = "cpu") -> Self:
        """Load the encoders. Raises WeightsError if an encoder or tokenizer of `config.model` is missing or damaged."""
        folder = locate(config.model, revision=config.revision)
        clip, t5 = (
            load_frozen(kind, folder / name, dtype=config.dtype, device=device)
            for kind, name in (
                (transformers.CLIPTextModel, "text_encoder"),
                (transformers.T5EncoderModel, "text_encoder_2"),
            )
        )
        pipeline = diffusers.FluxPipeline(
            text_encoder=clip,
            text_encoder_2=t5,
            tokenizer=load_part(transformers.CLIPTokenizer, folder / "tokenizer"),
            tokenizer_2=load_part(transformers.T5TokenizerFast, folder / "tokenizer_2"),
            transformer=None,
            vae=None,
            scheduler=None,
        )
        return cls(pipeline, config=config)

    def num_tokens(self, caption: str) -> int:
        """Count a caption's T5 tokens, with the end token. `encode` cuts tokens above the text length."""
        return len(self._pipeline.tokenizer_2(as_text(caption, tokenizer=self._pipeline.tokenizer_2)).input_ids)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Encode captions to `(B, T, E)` and `(B, P)`. Captions over T5's or CLIP's length are cut, as FLUX does."""
        clip, t5 = (
            [as_text(caption, tokenizer=tokenizer) for caption in captions]
            for tokenizer in (self._pipeline.tokenizer, self._pipeline.tokenizer_2)
        )
        prompt_embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=clip, prompt_2=t5, max_sequence_length=self._text_tokens
        )
        return Conditioning(prompt_embeds_BTE=prompt_embeds, pooled_BP=pooled)


def as_text(caption: str, *, tokenizer: Any) -> str:
    """Return the caption with a space inside every special token, so `</s>` becomes the plain text `< /s>`.

    The tokenizer's `split_special_tokens` is not enough, because `</s>` is also a word of T5's vocabulary. Text that
    only becomes a special token through the tokenizer's normalization, such as fullwidth letters, is split too.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    normal = normalizer.normalize_str(caption) if normalizer else caption
    special = re.compile("|".join(map(re.escape, sorted(tokenizer.added_tokens_encoder, key=len, reverse=True))))
    # The tokenizer looks for special tokens before and after it normalizes.
    text = normal if special.search(normal) else caption
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
