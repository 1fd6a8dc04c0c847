"""Computes the hidden states of all layers of a frozen multimodal LLM, which AlignNet reads.

They come from one prefill over the prompt, or over the prompt and the model's own answer to it, without the LM head.
By default only valid positions are returned, because values at padded positions differ between versions and attention
kernels. Up to rounding, a prompt's states do not depend on the other prompts of its batch.

Shape suffixes: B batch, C layers + 1 (the embedding output first, the last after the final norm), S tokens, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import transformers
from torch import Tensor

from x2i_platform.config import AnswerConfig, MLLMConfig, States
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.models.components import load_frozen, load_head, load_part
from x2i_platform.models.entries import read_config
from x2i_platform.models.families import Family
from x2i_platform.models.prompt_reader import PromptReader, family_of
from x2i_platform.models.prompts import Inputs, Prompt, collate
from x2i_platform.models.sampling import Sampler
from x2i_platform.models.weights import locate

GREEDY = AnswerConfig()
MEDIA_TOKENS = ("image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "audio_start_token_id")
"""Tokens that are suppressed in answers: positions are counted from them, and in an answer no medium follows."""


@dataclass(frozen=True)
class Answer:
    """The model's answer to a prompt."""

    text: str
    states_CSH: Tensor
    """Hidden states of the answer's tokens, with the end token; with `both`, those of the prompt before them."""
    ended: bool
    """False if the maximum length cut it off."""


class MLLM:
    """A model without its LM head, with its tokenizer and the recipe's caption template."""

    def __init__(self, model: Any, *, tokenizer: Any, family: Family, config: MLLMConfig) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.reader = PromptReader(tokenizer=tokenizer, family=family, config=config)
        self._family = family
        self._config = config
        self._whole: Any = None

    @classmethod
    def load(cls, config: MLLMConfig, *, device: str = "cpu") -> Self:
        """Load the model. Raises WeightsError for a missing or damaged folder, unknown family or no chat template."""
        folder = locate(config.model, revision=config.revision)
        family = family_of(read_config(folder), model=config.model)
        tokenizer = load_part(transformers.AutoTokenizer, folder)
        if not tokenizer.chat_template:
            raise WeightsError(
                f"the tokenizer in {folder} has no chat template; a chat_template.jinja there of one line, "
                "{{ messages[0]['content'] }}, would feed prompts bare"
            )
        # The model below the LM head: the head is neither built nor read.
        model = load_frozen(getattr(transformers, family.body), folder, dtype=config.dtype, device=device)
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
        return [each.ids for each in self.reader.read(prompts, limit=self._config.max_tokens)]

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str | Prompt], *, states: States = "prompt", pad_to: int | None = None
    ) -> list[Tensor]:
        """Return each prompt's hidden states `(C, S, H)`, in the model's dtype on its device.

        Others than those of the prompt are those of `answers`. With `pad_to`, every prompt is padded on the left to S =
        `pad_to`, and the states at padded positions are returned too, as the reference code feeds them to AlignNet.
        Raises PromptTooLong, with `pad_to` also for a longer prompt.
        """
        if states != "prompt":
            return [answer.states_CSH for answer in self.answers(prompts, both=states == "both")]
        inputs = self.reader.read(prompts, limit=min(self._config.max_tokens, pad_to or self._config.max_tokens))
        return self._states(inputs, kept=[len(each.ids) for each in inputs], pad_to=pad_to) if inputs else []

    @torch.no_grad()
    def answers(
        self,
        prompts: Sequence[str | Prompt],
        *,
        both: bool = False,
        sampling: AnswerConfig = GREEDY,
        seeds: Sequence[int] = (),
    ) -> list[Answer]:
        """Return the model's answer to each prompt. Raises PromptTooLong.

        `both` returns the states of each prompt before those of its answer. Each of `seeds` decides a prompt's answer
        if `sampling` has a temperature.
        """
        inputs = self.reader.read(prompts, limit=self._config.max_tokens)
        if not inputs:
            return []
        if not both and any(each.factors is not None for each in inputs):
            raise InputError(
                "weights scale the states of a prompt's media; states 'answer' are the answer's alone; use 'prompt' or "
                "'both'"
            )
        # First the answer token by token, then one prefill over prompt and answer for the hidden states of all layers.
        limit = sampling.max_tokens or self._config.answer_tokens
        ids = self._answer_ids(inputs, limit=limit, sampler=Sampler(sampling, seeds=seeds))
        answered = [prompt.answered(answer) for prompt, answer in zip(inputs, ids, strict=True)]
        kept = [len(whole.ids) if both else len(answer) for whole, answer in zip(answered, ids, strict=True)]
        states = self._states(answered, kept=kept, pad_to=None)
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
            **self._batch(inputs, size=pad_to, left=pad_to is not None, filler=filler),
            use_cache=False,
            output_hidden_states=True,
        )
        # The states to return: all positions of a prompt padded on the left, else its last `kept` tokens.
        ends = [pad_to or len(each.ids) for each in inputs]
        starts = [0 if pad_to else end - count for end, count in zip(ends, kept, strict=True)]
        # C times (B, S, H) -> one (C, S_i, H) per prompt.
        states = [
            torch.stack([layer_BSH[row, start:end] for layer_BSH in output.hidden_states])
            for row, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        return [_scaled(one_CSH, each.factors) for one_CSH, each in zip(states, inputs, strict=True)]

    def _answer_ids(self, inputs: list[Inputs], *, limit: int, sampler: Sampler) -> list[Tensor]:
        """Generate answers; return the ids of each up to its end token, which is included."""
        model = self._with_head()
        filler = self.tokenizer.pad_token_id or 0
        batch = self._batch(inputs, left=True, filler=filler)
        placeholders = [found for name in MEDIA_TOKENS if (found := getattr(model.config, name, None)) is not None]
        made = model.generate(
            **batch,
            max_new_tokens=limit,
            do_sample=False,  # the sampler draws by itself, each prompt from its own seed
            logits_processor=sampler.processors(),
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

    def _batch(
        self, inputs: list[Inputs], *, size: int | None = None, left: bool = False, filler: int = 0
    ) -> dict[str, Tensor]:
        """Return the model's arguments for a batch of prompts, on its device."""
        batch = collate(inputs, size=size, left=left, filler=filler, joined_on=self._family.joined_on)
        if not self._family.token_types:
            batch.pop("mm_token_type_ids")
        return {name: value.to(self.model.device) for name, value in batch.items()}


def _scaled(states_CSH: Tensor, factors: Tensor | None) -> Tensor:
    """Multiply the states of a prompt's tokens by its media's weights.

    An answer after the prompt has weight 1, and so have positions that pad the prompt on the left.
    """
    if factors is None:
        return states_CSH
    padded = torch.cat([factors.new_ones(max(0, states_CSH.shape[1] - len(factors))), factors])
    return states_CSH * padded[-states_CSH.shape[1] :, None].to(states_CSH)
