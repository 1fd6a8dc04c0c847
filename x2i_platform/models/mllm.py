"""Prompts become the hidden states of all layers of a frozen multimodal LLM: what AlignNet reads.

One prefill over the prompt, without the LM head. Unless asked otherwise, only valid positions are given: what stays at
padded positions differs between versions and attention kernels. Each prompt's states are, up to rounding, those it has
alone in a batch.

Shape suffixes: B batch, C layers + 1 (the embedding output first, the last after the final norm), S tokens, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from x2i_platform.config import MLLMConfig
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.models.catalog import read_config
from x2i_platform.models.components import load_frozen, load_part
from x2i_platform.models.weights import locate


class PromptTooLong(InputError):  # noqa: N818
    """A prompt of more tokens than the recipe allows; `index` is its place in the batch."""

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Prompt:
    """One user turn, already worded; a caption becomes one through the recipe's template. Text so far: images, video
    and audio are further fields, which `messages` turns into content parts."""

    text: str

    def messages(self) -> list[dict[str, str]]:
        """The chat that a tokenizer's template renders."""
        return [{"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Family:
    """What is particular to feeding one family of models."""

    token_types: bool
    """The forward takes `mm_token_type_ids` (text 0, image 1, video 2); without them Qwen2.5-VL places vision tokens
    wrongly, in silence."""


FAMILIES = {"qwen2_5_vl": Family(token_types=True)}
TEXT_ONLY = Family(token_types=False)


class MLLM:
    """A model without its LM head, its tokenizer, and the template around captions."""

    def __init__(self, model: Any, *, tokenizer: Any, family: Family, config: MLLMConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._family = family
        self._config = config

    @classmethod
    def load(cls, config: MLLMConfig, *, device: str = "cpu") -> Self:
        """Raises WeightsError on a missing or damaged folder, an unsupported family, or no chat template."""
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
        """Token ids `(S,)` of each prompt in the chat template, up to where the answer would begin.

        A `str` is a caption and goes through the recipe's template; a `Prompt` is taken as it stands. Raises
        PromptTooLong.
        """
        limit = self._config.max_tokens
        return [self._tokenize(prompt, index=index, limit=limit) for index, prompt in enumerate(prompts)]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | Prompt], *, pad_to: int | None = None) -> list[Tensor]:
        """Hidden states `(C, S, H)` of each prompt, in the model's dtype on its device. Raises PromptTooLong.

        With `pad_to`, S is that number for every prompt and what the model leaves at the padded positions, on the left,
        is given too, as the reference code feeds it to AlignNet; a prompt above `pad_to` is too long.
        """
        limit = min(self._config.max_tokens, pad_to or self._config.max_tokens)
        ids = [self._tokenize(prompt, index=index, limit=limit) for index, prompt in enumerate(prompts)]
        if not ids:
            return []
        lengths = [len(each) for each in ids]
        if pad_to is not None:
            # The reference pads on the left, with the tokenizer's own token, whose states it feeds on.
            filler = self.tokenizer.pad_token_id or 0
            ids = [nn.functional.pad(each, (pad_to - len(each), 0), value=filler) for each in ids]
        # Causal attention keeps what stands right of a prompt out of its states, so any id pads.
        input_ids_BS = pad_sequence(ids, batch_first=True)
        mask_BS = _mask(lengths, size=input_ids_BS.shape[1], on_the_left=pad_to is not None)
        inputs = {"input_ids": input_ids_BS, "attention_mask": mask_BS}
        if self._family.token_types:
            inputs["mm_token_type_ids"] = torch.zeros_like(input_ids_BS)
        device = self.model.device
        output = self.model(
            **{name: value.to(device) for name, value in inputs.items()}, use_cache=False, output_hidden_states=True
        )
        return [
            torch.stack([layer_BSH[row, : len(each)] for layer_BSH in output.hidden_states])
            for row, each in enumerate(ids)
        ]

    def _tokenize(self, prompt: str | Prompt, *, index: int, limit: int) -> Tensor:
        if isinstance(prompt, str):
            prompt = Prompt(self._config.template.format(caption=prompt))
        text = self.tokenizer.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False).input_ids  # the template writes them
        if len(ids) > limit:
            shown = prompt.text if len(prompt.text) <= 60 else f"{prompt.text[:60]}…"
            raise PromptTooLong(f"prompt of {len(ids)} tokens, at most {limit} fit: {shown!r}", index=index)
        return torch.tensor(ids)


def _mask(lengths: Sequence[int], *, size: int, on_the_left: bool) -> Tensor:
    """1 at the positions of each prompt, 0 at padding, `(B, S)`."""
    position_S, length_B1 = torch.arange(size), torch.tensor(lengths)[:, None]
    return (position_S >= size - length_B1 if on_the_left else position_S < length_B1).long()


def _family(config: dict[str, Any], *, model: str) -> Family:
    name = config.get("model_type")
    if name in FAMILIES:
        return FAMILIES[name]
    nested = any(key.endswith("_config") and key != "quantization_config" for key in config)
    if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not nested and not config.get("is_encoder_decoder"):
        return TEXT_ONLY
    raise WeightsError(
        f"{model!r} is of the family {name!r}; supported are {', '.join(FAMILIES)} and text-only causal language "
        "models (llama, qwen2, mistral, …)"
    )
