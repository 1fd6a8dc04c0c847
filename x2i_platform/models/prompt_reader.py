"""Reads prompts for an MLLM: templates, tokens, processors and limits. It needs no weights.

A caption goes through the recipe's template; a prompt is read as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from x2i_platform.config import MLLMConfig
from x2i_platform.errors import InputError, WeightsError, shown
from x2i_platform.models.components import load_part
from x2i_platform.models.entries import read_config
from x2i_platform.models.families import FAMILIES, OTHER_LAYOUTS, TEXT_ONLY, Family
from x2i_platform.models.minicpm_o.registration import register
from x2i_platform.models.prompts import Inputs, Medium, Prompt, kind_of, media_inputs, text_inputs, weigh
from x2i_platform.models.weights import locate


class PromptTooLong(InputError):  # noqa: N818
    """A prompt has more tokens than the recipe allows; `index` is its place in the batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


def caption_tokens(config: MLLMConfig) -> Callable[[str, int], int]:
    """Return a function `count(caption, limit)` that counts a caption's tokens in the recipe's templates.

    It needs no model. If a caption is short enough in bytes, the function returns an upper bound without tokenizing;
    it raises InputError for a caption that can't be read. This function itself raises like `family_of`.
    """
    folder = locate(config.model, revision=config.revision)
    family_of(read_config(folder), model=config.model)
    tokenizer = load_part(transformers.AutoTokenizer, folder)
    around = len(text_inputs(Prompt.of(" "), tokenizer=tokenizer).ids)

    def count(caption: str, limit: int) -> int:
        text = config.template.format(caption=caption)
        at_most = around + len(text.encode())  # every token has at least one byte
        return at_most if at_most <= limit else len(text_inputs(Prompt.of(text), tokenizer=tokenizer).ids)

    return count


class PromptReader:
    """The tokenizer and the processors of an MLLM."""

    def __init__(self, *, tokenizer: Any, family: Family, config: MLLMConfig) -> None:
        self.tokenizer, self.family, self._config = tokenizer, family, config
        self._processor: Any = None

    def read(self, prompts: Sequence[str | Prompt], *, limit: int) -> list[Inputs]:
        """Return the inputs of each prompt.

        Raises PromptTooLong for more than `limit` tokens of text, and InputError for what the family doesn't take.
        """
        return [self._read_one(prompt, index=index, limit=limit) for index, prompt in enumerate(prompts)]

    def _read_one(self, prompt: str | Prompt, *, index: int, limit: int) -> Inputs:
        if isinstance(prompt, str):
            prompt = Prompt.of(self._config.template.format(caption=prompt))
        try:
            inputs = self._inputs(prompt)
        except ValueError as error:  # a special token that the vocabulary can't spell as text
            raise InputError(f"prompt {shown(prompt.text)} can't be read: {error}") from error
        count, media = len(inputs.ids) - inputs.num_media_tokens, inputs.num_media_tokens
        if count > limit:
            raise PromptTooLong(f"prompt of {count} tokens, at most {limit} fit: {shown(prompt.text)}", index=index)
        if media > self._config.max_media_tokens:
            raise PromptTooLong(
                f"images, videos and sound of {media} tokens, at most mllm.max_media_tokens = "
                f"{self._config.max_media_tokens}",
                index=index,
            )
        return inputs

    def _inputs(self, prompt: Prompt) -> Inputs:
        if not prompt.media:
            return text_inputs(prompt, tokenizer=self.tokenizer)
        takes = self.family.takes
        if refused := next((kind for kind in map(kind_of, prompt.media) if kind not in takes), None):
            taken = ", ".join(("text", *takes)) if takes else "text only"
            raise InputError(f"MLLM '{self._config.model}' takes {taken}, not {refused}")
        template = self.tokenizer.get_chat_template()

        def num_tokens(medium: Medium) -> int:
            alone = media_inputs(Prompt.of(medium), processor=self.processor(), template=template)
            return alone.num_media_tokens

        inputs = media_inputs(prompt, processor=self.processor(), template=template)
        return weigh(inputs, prompt=prompt, num_tokens=num_tokens)

    def processor(self) -> Any:
        """Return the processor of media, which is loaded for the first of them."""
        if self._processor is None:
            folder = locate(self._config.model, revision=self._config.revision)
            self._processor = load_part(transformers.AutoProcessor, folder)
        return self._processor


def family_of(config: dict[str, Any], *, model: str) -> Family:
    """Return the family of a config.json. Raises WeightsError for one that isn't supported."""
    register()  # before the first Auto class reads a folder: MiniCPM-o 2.6 isn't one of transformers' own
    name = str(config.get("model_type"))
    if name in FAMILIES:
        return FAMILIES[name]
    nested = any(key.endswith("_config") and key != "quantization_config" for key in config)
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not nested and not config.get("is_encoder_decoder"):
        return TEXT_ONLY
    raise WeightsError(
        f"{model!r} is of the family {name!r}; supported are {', '.join(FAMILIES)} and text-only causal language "
        f"models (llama, qwen2, mistral, …){OTHER_LAYOUTS.get(name, '')}"
    )
