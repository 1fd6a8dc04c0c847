"""FLUX's own two text encoders: captions become the conditioning the teacher was trained with.

Shape suffixes: B batch, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import diffusers
import torch
import transformers
from torch import Tensor

from x2i_platform.config import TeacherConfig
from x2i_platform.models.components import load_frozen, load_part
from x2i_platform.models.weights import locate


@dataclass(frozen=True)
class TextConditioning:
    """What the DiT takes from a caption."""

    prompt_embeds_BTE: Tensor
    """T5 tokens, padded to T without an attention mask."""
    pooled_BP: Tensor
    """CLIP's pooled vector."""


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
        return len(self._pipeline.tokenizer_2(caption).input_ids)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextConditioning:
        """`(B, T, E)` and `(B, P)`. Captions above T5's or CLIP's tokens are cut, as FLUX cuts them."""
        prompt_embeds, pooled, _ = self._pipeline.encode_prompt(
            prompt=list(captions), max_sequence_length=self._text_tokens
        )
        return TextConditioning(prompt_embeds_BTE=prompt_embeds, pooled_BP=pooled)
