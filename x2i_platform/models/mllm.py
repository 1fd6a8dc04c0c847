"""Computes the hidden states of all layers of a frozen multimodal LLM, which AlignNet reads.

They come from one prefill over the prompt, or over the prompt and the model's own answer to it, without the LM head.
By default only valid positions are returned, because values at padded positions differ between versions and attention
kernels. Up to rounding, a prompt's states do not depend on the other prompts of its batch.

Shape suffixes: B batch, C layers + 1 (the embedding output first, the last after the final norm), S tokens, H width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from x2i_platform.config import MLLMConfig, States
from x2i_platform.errors import InputError, WeightsError, shown
from x2i_platform.models.catalog import FAMILIES, TEXT_ONLY, Family, read_config
from x2i_platform.models.components import load_frozen, load_head, load_part
from x2i_platform.models.prompts import Inputs, Prompt, collate, media_inputs, text_inputs
from x2i_platform.models.weights import locate


class PromptTooLong(InputError):  # noqa: N818
    """A prompt has more tokens than the recipe allows; `index` is its place in the batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Answer:
    """The model's answer to a prompt."""

    text: str
    states_CSH: Tensor
    """Hidden states of the answer's tokens, with the end token."""
    ended: bool
    """False if `answer_tokens` cut it off."""


def caption_tokens(config: MLLMConfig) -> Callable[[str, int], int]:
    """Return a function `count(caption, limit)` that counts a caption's tokens in the recipe's templates.

    It needs no model. If a caption is short enough in bytes, the function returns an upper bound without tokenizing;
    it raises InputError for a caption that can't be read. This function itself raises like `MLLM.load`.
    """
    folder = locate(config.model, revision=config.revision)
    _family(read_config(folder), model=config.model)
    tokenizer = load_part(transformers.AutoTokenizer, folder)
    around = len(text_inputs(Prompt.of(" "), tokenizer=tokenizer).ids)

    def count(caption: str, limit: int) -> int:
        text = config.template.format(caption=caption)
        at_most = around + len(text.encode())  # every token has at least one byte
        return at_most if at_most <= limit else len(text_inputs(Prompt.of(text), tokenizer=tokenizer).ids)

    return count


class MLLM:
    """A model without its LM head, with its tokenizer and the recipe's caption template."""

    def __init__(self, model: Any, *, tokenizer: Any, family: Family, config: MLLMConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._family = family
        self._config = config
        self._whole: Any = None
        self._loaded_processor: Any = None

    @classmethod
    def load(cls, config: MLLMConfig, *, device: str = "cpu") -> Self:
        """Load the model. Raises WeightsError for a missing or damaged folder, unknown family or no chat template."""
        folder = locate(config.model, revision=config.revision)
        family = _family(read_config(folder), model=config.model)
        tokenizer = load_part(transformers.AutoTokenizer, folder)
        if not tokenizer.chat_template:
            raise WeightsError(
                f"the tokenizer in {folder} has no chat template; a chat_template.jinja there of one line, "
                "{{ messages[0]['content'] }}, would feed prompts bare"
            )
        # AutoModel is the model below the LM head, for every family: the head is neither built nor read.
        model = load_frozen(transformers.AutoModel, folder, dtype=config.dtype, device=device)
        return cls(model, tokenizer=tokenizer, family=family, config=config)

    @property
    def num_layers_plus_one(self) -> int:
        """C."""
        return int(self.model.config.get_text_config().num_hidden_layers) + 1

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self.model.config.get_text_config().hidden_size)

    def tokenize(self, prompts: Sequence[str | Prompt]) -> list[Tensor]:
        """Return each prompt's token ids `(S,)` in the chat template, up to the start of the answer.

        A `str` is a caption and goes through the recipe's template; a `Prompt` is used unchanged. Raises PromptTooLong.
        """
        return [each.ids for each in self._read(prompts, limit=self._config.max_tokens)]

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str | Prompt], *, states: States = "prompt", pad_to: int | None = None
    ) -> list[Tensor]:
        """Return each prompt's hidden states `(C, S, H)`, in the model's dtype on its device.

        With states `answer` they are those of `answers`. With `pad_to`, every prompt is padded on the left to S =
        `pad_to`, and the states at padded positions are returned too, as the reference code feeds them to AlignNet.
        Raises PromptTooLong, with `pad_to` also for a longer prompt.
        """
        if states == "answer":
            return [answer.states_CSH for answer in self.answers(prompts)]
        inputs = self._read(prompts, limit=min(self._config.max_tokens, pad_to or self._config.max_tokens))
        return self._states(inputs, kept=[len(each.ids) for each in inputs], pad_to=pad_to) if inputs else []

    @torch.no_grad()
    def answers(self, prompts: Sequence[str | Prompt]) -> list[Answer]:
        """Return the model's greedy answer to each prompt. Raises PromptTooLong."""
        inputs = self._read(prompts, limit=self._config.max_tokens)
        if not inputs:
            return []
        # First the answer token by token, then one prefill over prompt and answer for the hidden states of all layers.
        ids = self._answer_ids(inputs)
        answered = [prompt.answered(answer) for prompt, answer in zip(inputs, ids, strict=True)]
        states = self._states(answered, kept=[len(answer) for answer in ids], pad_to=None)
        ends = self._end_tokens()
        return [
            Answer(
                text=str(self.tokenizer.decode(answer, skip_special_tokens=True)).strip(),
                states_CSH=states_CSH,
                ended=int(answer[-1]) in ends,
            )
            for answer, states_CSH in zip(ids, states, strict=True)
        ]

    def _states(self, inputs: list[Inputs], *, kept: Sequence[int], pad_to: int | None) -> list[Tensor]:
        """Return the hidden states of each prompt's last `kept` tokens, or of all `pad_to` positions."""
        # With causal attention a prompt's states do not depend on tokens to its right, so any id can pad there. The
        # reference pads on the left with the tokenizer's pad token, and AlignNet reads the states at those positions.
        filler = self.tokenizer.pad_token_id or 0 if pad_to else 0
        output = self.model(
            **self._on_device(collate(inputs, size=pad_to, left=pad_to is not None, filler=filler)),
            use_cache=False,
            output_hidden_states=True,
        )
        # The states to return: all positions of a prompt padded on the left, else its last `kept` tokens.
        ends = [pad_to or len(each.ids) for each in inputs]
        starts = [0 if pad_to else end - count for end, count in zip(ends, kept, strict=True)]
        # C times (B, S, H) -> one (C, S_i, H) per prompt.
        return [
            torch.stack([layer_BSH[row, start:end] for layer_BSH in output.hidden_states])
            for row, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def _answer_ids(self, inputs: list[Inputs]) -> list[Tensor]:
        """Generate greedy answers; return the ids of each up to its end token, which is included."""
        model = self._with_head()
        filler = self.tokenizer.pad_token_id or 0
        batch = self._on_device(collate(inputs, left=True, filler=filler))
        limit = self._config.answer_tokens
        # Suppress image and video placeholders: in an answer they would have no pixels.
        names = ("image_token_id", "video_token_id")
        placeholders = [found for name in names if (found := getattr(model.config, name, None)) is not None]
        made = model.generate(
            **batch,
            max_new_tokens=limit,
            do_sample=False,
            pad_token_id=filler,
            suppress_tokens=placeholders or None,
        )
        # The output repeats the prompt, padded on the left; an answer starts after it.
        ends = self._end_tokens()
        answers = [row[batch["input_ids"].shape[1] :].cpu() for row in made]
        # Shorter answers of a batch are padded after their end.
        stops = [next((place for place, token in enumerate(ids.tolist()) if token in ends), limit) for ids in answers]
        return [ids[: stop + 1] for ids, stop in zip(answers, stops, strict=True)]

    def _end_tokens(self) -> set[int]:
        ids = self._with_head().generation_config.eos_token_id
        return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)

    def _with_head(self) -> Any:
        """Return this model with its LM head, whose weights are loaded for the first answer."""
        if self._whole is None:
            folder = locate(self._config.model, revision=self._config.revision)
            self._whole = load_head(getattr(transformers, self._family.whole), folder, below=self.model)
        return self._whole

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self._family.token_types:
            batch.pop("mm_token_type_ids")
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def _read(self, prompts: Sequence[str | Prompt], *, limit: int) -> list[Inputs]:
        return [self._read_one(prompt, index=index, limit=limit) for index, prompt in enumerate(prompts)]

    def _read_one(self, prompt: str | Prompt, *, index: int, limit: int) -> Inputs:
        if isinstance(prompt, str):
            prompt = Prompt.of(self._config.template.format(caption=prompt))
        try:
            if prompt.media:
                template = self.tokenizer.get_chat_template()
                inputs = media_inputs(prompt, processor=self._processor(), template=template)
            else:
                inputs = text_inputs(prompt, tokenizer=self.tokenizer)
        except ValueError as error:  # a special token that the vocabulary can't spell as text
            raise InputError(f"prompt {shown(prompt.text)} can't be read: {error}") from error
        count, media = len(inputs.ids) - inputs.num_media_tokens, inputs.num_media_tokens
        if count > limit:
            raise PromptTooLong(f"prompt of {count} tokens, at most {limit} fit: {shown(prompt.text)}", index=index)
        if media > self._config.max_media_tokens:
            raise PromptTooLong(
                f"images and videos of {media} tokens, at most mllm.max_media_tokens = {self._config.max_media_tokens}",
                index=index,
            )
        return inputs

    def _processor(self) -> Any:
        """Return the processor of images and videos, which is loaded for the first of them."""
        if not self._family.token_types:
            raise InputError(f"MLLM '{self._config.model}' takes text only, not images or videos")
        if self._loaded_processor is None:
            folder = locate(self._config.model, revision=self._config.revision)
            self._loaded_processor = load_part(transformers.AutoProcessor, folder)
        return self._loaded_processor


def _family(config: dict[str, Any], *, model: str) -> Family:
    name = str(config.get("model_type"))
    if name in FAMILIES:
        return FAMILIES[name]
    nested = any(key.endswith("_config") and key != "quantization_config" for key in config)
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not nested and not config.get("is_encoder_decoder"):
        return TEXT_ONLY
    raise WeightsError(
        f"{model!r} is of the family {name!r}; supported are {', '.join(FAMILIES)} and text-only causal language "
        "models (llama, qwen2, mistral, …)"
    )
