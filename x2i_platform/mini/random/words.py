"""Tokenizers, chat templates and decoder sizes of the random MLLMs; each family has its own marks for media."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import Qwen2Tokenizer

from x2i_platform.config import REFERENCE_TEMPLATE
from x2i_platform.mini.vocabularies import QWEN_TOKENS, qwen_tokenizer

TEMPLATE = """\
{%%- set marks = %s -%%}
{%%- for message in messages -%%}
  {{- "<|im_start|>" ~ message.role ~ "\\n" -}}
  {%%- if message.content is string -%%}
    {{- message.content -}}
  {%%- else -%%}
    {%%- for part in message.content -%%}
      {{- part.text if part.type == "text" else marks[part.type] -}}
    {%%- endfor -%%}
  {%%- endif -%%}
  {{- "<|im_end|>\\n" -}}
{%%- endfor -%%}
{%%- if add_generation_prompt -%%}
  {{- "<|im_start|>assistant\\n" -}}
{%%- endif -%%}
"""


def chat_template(marks: Mapping[str, str]) -> str:
    """Return a Jinja chat template that writes `marks[kind]` for each image, video or sound."""
    return TEMPLATE % json.dumps(dict(marks))


def tokenizer(captions: Sequence[str], *, template: str, tokens: Mapping[str, str] | None = None) -> Qwen2Tokenizer:
    """Train a tokenizer on captions, and on the prompts and chats around them, so that those are few tokens too.

    `tokens` are the family's special tokens by name; Qwen2.5-VL's without.
    """
    prompts = [REFERENCE_TEMPLATE.format(caption=caption) for caption in captions]
    chat = ["system\nYou are a helpful assistant.\n", "user\n", "assistant\n"] * len(captions)
    return qwen_tokenizer([*captions, *prompts, *chat], chat_template=template, tokens=tokens)


def decoder_settings(words: Qwen2Tokenizer, *, width: int, layers: int, heads: int) -> dict[str, Any]:
    """Return the settings of a family's language model, as far as the families share them."""
    return {
        "vocab_size": len(words),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": QWEN_TOKENS,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": False,
    }


def rope_axes(head_dim: int) -> list[int]:
    """Return the parts of a head's rotary embedding for time, height and width: half the head's width together."""
    return [(head_dim // 2 + extra) // 3 for extra in range(3)]
