"""FLUX's own two text encoders: captions become the conditioning the teacher was trained with.

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
        """Raises WeightsError where a text encoder or tokenizer of `config.model` is missing or damaged."""
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
        """T5's tokens of a caption, the one that ends it included; those above its text length are cut off."""
        return len(self._pipeline.tokenizer_2(as_text(caption, tokenizer=self._pipeline.tokenizer_2)).input_ids)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Conditioning:
        """`(B, T, E)` and `(B, P)`. Captions above T5's or CLIP's tokens are cut, as FLUX cuts them."""
        clip, t5 = (
            [as_text(caption, tokenizer=tokenizer) for caption in captions]
            for tokenizer in (self._pipeline.tokenizer, self._pipeline.tokenizer_2)
        )
        prompt_embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=clip, prompt_2=t5, max_sequence_length=self._text_tokens
        )
        return Conditioning(prompt_embeds_BTE=prompt_embeds, pooled_BP=pooled)


def as_text(caption: str, *, tokenizer: Any) -> str:
    """The caption with every special token broken by a space after its first character: `< /s>` ends nothing.

    The tokenizer's `split_special_tokens` is not enough: for T5's tokenizer `</s>` is also an entry of its vocabulary.
    Text that only becomes a special token by normalization, such as fullwidth letters, counts too.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    normal = normalizer.normalize_str(caption) if normalizer else caption
    special = re.compile("|".join(map(re.escape, sorted(tokenizer.added_tokens_encoder, key=len, reverse=True))))
    # The tokenizer looks for them before and after it normalizes.
    text = normal if special.search(normal) else caption
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
