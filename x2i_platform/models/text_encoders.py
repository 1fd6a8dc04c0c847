"""The text encoders of the teacher's pipeline. They turn captions into the conditioning that it was trained with.

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
from x2i_platform.models.components import load_frozen, load_part, pipeline_architecture
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dits import Architecture
from x2i_platform.models.weights import locate


class TextEncoders:
    """T5 and one or two CLIPs, driven by the `encode_prompt` of diffusers' own pipeline."""

    def __init__(self, pipeline: Any, *, architecture: Architecture, config: TeacherConfig) -> None:
        pipeline.tokenizer_max_length = config.clip_tokens
        self._pipeline = pipeline
        self.architecture = architecture
        self.t5_tokens = architecture.t5_tokens(config)
        """How many tokens T5 reads."""

    @classmethod
    def load(cls, config: TeacherConfig, *, device: str = "cpu") -> Self:
        """Load the encoders. Raises WeightsError if an encoder or tokenizer of `config.model` is missing or damaged."""
        folder = locate(config.model, revision=config.revision)
        architecture = pipeline_architecture(folder)
        classes = {name: getattr(transformers, architecture.clip) for name in architecture.clips}
        classes[architecture.t5] = transformers.T5EncoderModel
        encoders = {
            name: load_frozen(kind, folder / name, dtype=config.dtype, device=device) for name, kind in classes.items()
        }
        readers = dict.fromkeys(architecture.clips, transformers.CLIPTokenizer)
        readers[architecture.t5] = transformers.T5TokenizerFast
        tokenizers = {
            tokenizer_of(name): load_part(kind, folder / tokenizer_of(name)) for name, kind in readers.items()
        }
        nothing = dict.fromkeys(("transformer", "vae", "scheduler"))
        pipeline = getattr(diffusers, architecture.pipeline)(**encoders, **tokenizers, **nothing)
        return cls(pipeline, architecture=architecture, config=config)

    def num_tokens(self, caption: str) -> int:
        """Count a caption's T5 tokens, with the end token. `encode` cuts those above `t5_tokens`."""
        tokenizer = self._tokenizer(self.architecture.t5)
        return len(tokenizer(as_text(caption, tokenizer=tokenizer)).input_ids)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Encode captions to `(B, T, E)` and `(B, P)`. Captions over T5's or CLIP's length are cut, as the DiT's own
        pipeline does.
        """
        *clip, t5 = (
            [as_text(caption, tokenizer=self._tokenizer(name)) for caption in captions]
            for name in (*self.architecture.clips, self.architecture.t5)
        )
        return self.architecture.encode(self._pipeline, clip=clip, t5=t5, t5_tokens=self.t5_tokens)

    def _tokenizer(self, encoder: str) -> Any:
        return getattr(self._pipeline, tokenizer_of(encoder))


def tokenizer_of(encoder: str) -> str:
    """Return the name of the tokenizer of a text encoder: `tokenizer_2` for `text_encoder_2`."""
    return encoder.replace("text_encoder", "tokenizer")


def as_text(caption: str, *, tokenizer: Any) -> str:
    """Return the caption with a space inside every special token, so `</s>` becomes the plain text `< /s>`.

    The tokenizer's `split_special_tokens` is not enough, because `</s>` is also a word of T5's vocabulary. Text that
    only becomes a special token through the tokenizer's normalization, such as fullwidth letters, is split too. A token
    of one character is left as it is: SD3's second CLIP pads with `!`, which is text all the same.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    normal = normalizer.normalize_str(caption) if normalizer else caption
    tokens = sorted((token for token in tokenizer.added_tokens_encoder if len(token) > 1), key=len, reverse=True)
    special = re.compile("|".join(map(re.escape, tokens)))
    # The tokenizer looks for special tokens before and after it normalizes.
    text = normal if special.search(normal) else caption
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
