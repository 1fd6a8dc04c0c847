"""Training of the miniature MLLM's language model: it repeats in English what a caption in any of six languages says.

Next to predicting words, its loss asks for the same hidden states at the answer whatever the language of the prompt.
Real multilingual models have that from their size and data. It must not rely on its own earlier words: some are hidden,
and it isn't trained to continue prompts. Otherwise it would learn that no training caption has a triangle after "blue",
and would name another shape for a blue triangle.

Shape suffixes: B batch, S tokens, V vocabulary, H width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini import chat_template_path
from x2i_platform.mini.languages import LANGUAGES, caption, describe
from x2i_platform.mini.scenes import plainest
from x2i_platform.mini.training.corpus import all_tokenizer_texts, training_scenes
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.vocabularies import VISION_TOKENS, qwen_tokenizer

SEED = 13
SCHEDULE = Schedule(steps=2000, batch=32, lr=2e-3, warmup=100, ema=0.998)
"""A batch is counted in scenes; each has an English caption and one in another language."""
STATES_WEIGHT = 1.0
HIDDEN_SHARE = 0.5
"""Share of an answer's words that are hidden from the model while it predicts the next ones, in every other
dialogue."""
LONGEST_ANSWER = 32
"""Most tokens of an answer, with a margin."""
WIDTH = 128
LAYERS = 4
HEADS = 4
PATCH, MERGE = 8, 2


def words() -> Qwen2Tokenizer:
    """Byte-level BPE over captions of all languages; no piece covers both a colour and a shape."""
    chat = ["user\n", "assistant\n"] * 1000
    return qwen_tokenizer([*all_tokenizer_texts(), *chat], chat_template=chat_template_path().read_text("utf-8"))


def untrained(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """A complete Qwen2.5-VL with random weights."""
    torch.manual_seed(SEED)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 3,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": 8 * PATCH,
        "fullatt_block_indexes": [0, 1, 2],
        "out_hidden_size": WIDTH,
    }
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in VISION_TOKENS.items()}
    ids.pop("vision_pad_token_id")
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    return Qwen2_5_VLForConditionalGeneration(config)


@dataclass(frozen=True)
class Dialogues:
    """Right-padded prompts with their answers."""

    ids_BS: Tensor
    mask_BS: Tensor
    answer_BS: Tensor
    """True at tokens of the answer, including its end token."""
    shown_BS: Tensor
    """The ids with some of the answer's tokens hidden: what the model sees."""


def build(folder: Path, *, schedule: Schedule = SCHEDULE) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """Train or continue. The vision tower stays as it was initialised."""
    tokenizer = words()
    model = untrained(tokenizer)
    model.model.visual.requires_grad_(False)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(model, tokenizer, count=schedule.batch, step=step)

    train(model, loss, schedule=schedule, folder=folder, title="language")
    return model.requires_grad_(False), tokenizer


def _loss(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, *, count: int, step: int
) -> Mapping[str, Tensor]:
    draw = random.Random(f"language {SEED} {step}")
    chosen = list(islice(training_scenes(seed=1_000_003 * SEED + step), count))
    answers = [describe(plainest(scene)) for scene in chosen]
    english = [caption(scene, seed=step) for scene in chosen]
    others = [caption(scene, language=draw.choice(LANGUAGES), seed=step + 1) for scene in chosen]
    batch = dialogues(tokenizer, [*english, *others], answers=answers + answers)
    batch = hide(batch, rows=count, seed=step, token=hidden_token(tokenizer))
    states, logits_BSV = run(model, batch)
    figures = cross_entropies(logits_BSV, batch)
    distance = states_apart(states, batch)
    return {"loss": figures["answer"] + STATES_WEIGHT * distance, **figures, "apart": distance}


def dialogues(tokenizer: Any, prompts: Sequence[str], *, answers: Sequence[str]) -> Dialogues:
    """Chats of one turn, as ids."""
    heads = [
        tokenizer(text, add_special_tokens=False).input_ids
        for text in (
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        )
    ]
    tails = [[*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for answer in answers]
    return collate(heads, tails, filler=tokenizer.pad_token_id)


def collate(heads: Sequence[Sequence[int]], tails: Sequence[Sequence[int]], *, filler: int) -> Dialogues:
    """Pad prompts with their answers to one length."""
    size = max(len(head) + len(tail) for head, tail in zip(heads, tails, strict=True))
    ids_BS = torch.full((len(heads), size), filler)
    mask_BS, answer_BS = torch.zeros_like(ids_BS), torch.zeros_like(ids_BS, dtype=torch.bool)
    for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
        end = len(head) + len(tail)
        ids_BS[row, :end] = torch.tensor([*head, *tail])
        mask_BS[row, :end] = 1
        answer_BS[row, len(head) : end] = True
    return Dialogues(ids_BS, mask_BS, answer_BS, ids_BS)


def hidden_token(tokenizer: Any) -> int:
    """The id that replaces a hidden word: one of Qwen2.5-VL's that no prompt here holds."""
    return int(tokenizer.convert_tokens_to_ids(VISION_TOKENS["vision_pad_token"]))


def hide(batch: Dialogues, *, rows: int, seed: int, token: int) -> Dialogues:
    """Hide some words of the answers. Rows that are `rows` apart have the same words hidden."""
    draw = torch.Generator().manual_seed(seed)
    hidden_RA = torch.rand(rows, LONGEST_ANSWER, generator=draw) < HIDDEN_SHARE
    hidden_RA[::2] = False
    place_BS = (batch.answer_BS.cumsum(1) - 1).clamp_min(0)
    hidden_BS = hidden_RA.repeat(len(batch.ids_BS) // rows, 1).gather(1, place_BS) & batch.answer_BS
    return replace(batch, shown_BS=batch.ids_BS.masked_fill(hidden_BS, token))


def run(model: Qwen2_5_VLForConditionalGeneration, batch: Dialogues) -> tuple[tuple[Tensor, ...], Tensor]:
    """Hidden states of all layers and the logits for a batch of text."""
    positions = torch.arange(batch.ids_BS.shape[1]).expand(3, len(batch.ids_BS), -1)
    output = model.model.language_model(
        input_ids=batch.shown_BS, position_ids=positions, use_cache=False, output_hidden_states=True
    )
    return output.hidden_states, model.lm_head(output.last_hidden_state)


def cross_entropies(logits_BSV: Tensor, batch: Dialogues) -> dict[str, Tensor]:
    """Cross-entropy of the answers' tokens, and the share of answers that are right to the last token."""
    losses_BS = nn.functional.cross_entropy(logits_BSV[:, :-1].transpose(1, 2), batch.ids_BS[:, 1:], reduction="none")
    answer_BS = batch.answer_BS[:, 1:]
    wrong_BS = (logits_BSV[:, :-1].argmax(-1) != batch.ids_BS[:, 1:]) & answer_BS
    return {
        "answer": losses_BS[answer_BS].mean(),
        "exact": 1 - wrong_BS.any(1).float().mean(),
    }


def states_apart(states: Sequence[Tensor], batch: Dialogues) -> Tensor:
    """Distance between the answers' states in the second and in the first half of a batch, in units of their variance.

    The first half is the goal and gets no gradient.
    """
    half = len(batch.ids_BS) // 2
    total = states[0].new_zeros(())
    for layer_BSH in states[1:]:
        goal, other = layer_BSH[:half][batch.answer_BS[:half]].detach(), layer_BSH[half:][batch.answer_BS[half:]]
        total = total + (other - goal).square().mean() / goal.var(0).mean()
    return total / (len(states) - 1)
