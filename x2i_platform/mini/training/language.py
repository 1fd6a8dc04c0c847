"""Trains the language model of the miniature MLLM to describe in English what a caption in any of six languages says.

A second loss makes the hidden states of the answer the same for all languages of the prompt. Real multilingual models
learn that from size and data. The model must not rely on its previous words: otherwise it would learn that no training
caption has "triangle" after "blue", and call a blue triangle something else. So some words of the answer are hidden,
and the prompt's words are not predicted.

Shape suffixes: B batch, S tokens, V vocabulary, H width, R rows, A answer tokens.
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
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.training.corpus import all_tokenizer_texts, training_scenes
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.vocabularies import VISION_TOKENS, qwen_tokenizer

SEED = 13
SCHEDULE = Schedule(steps=2000, batch=32, lr=2e-3, warmup=100, ema=0.998)
"""The batch counts scenes. Each has a caption in English and one in a random language."""
STATES_WEIGHT = 1.0
HIDDEN_SHARE = 0.5
"""Share of an answer's words, in every other dialogue, that the model doesn't see when it predicts the next ones."""
LONGEST_ANSWER = 32
"""Upper bound of an answer's tokens."""
WIDTH = 128
LAYERS = 4
HEADS = 4
PATCH, MERGE = 8, 2


def build_tokenizer() -> Qwen2Tokenizer:
    """Train byte-level BPE on captions of all languages. No piece contains both a colour and a shape."""
    chat = ["user\n", "assistant\n"] * 1000
    return qwen_tokenizer([*all_tokenizer_texts(), *chat], chat_template=chat_template_path().read_text("utf-8"))


def untrained(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Build a small model with all parts of Qwen2.5-VL's architecture."""
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
    """True at tokens of the answer, its end token included."""
    shown_BS: Tensor
    """The ids that the model sees: some of the answer's are hidden."""


def build(folder: Path, *, schedule: Schedule = SCHEDULE) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """Train or resume. The vision tower stays as it was initialised."""
    tokenizer = build_tokenizer()
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
    answers = [describe(canonical(scene)) for scene in chosen]
    english = [caption(scene, seed=step) for scene in chosen]
    others = [caption(scene, language=draw.choice(LANGUAGES), seed=step + 1) for scene in chosen]
    batch = dialogues(tokenizer, [*english, *others], answers=answers + answers)
    batch = hide(batch, rows=count, seed=step, token=hidden_token(tokenizer))
    states, logits_BSV = run(model, batch)
    figures = cross_entropies(logits_BSV, batch)
    distance = states_distance(states, batch)
    return {"loss": figures["answer"] + STATES_WEIGHT * distance, **figures, "apart": distance}


def dialogues(tokenizer: Any, prompts: Sequence[str], *, answers: Sequence[str]) -> Dialogues:
    """Tokenize chats of one turn."""
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
    """Pad prompts with their answers to the same length."""
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
    """Return the id that replaces a hidden word: a special token of Qwen2.5-VL that no prompt here has."""
    return int(tokenizer.convert_tokens_to_ids(VISION_TOKENS["vision_pad_token"]))


def hide(batch: Dialogues, *, rows: int, seed: int, token: int) -> Dialogues:
    """Hide some words of the answers, the same ones in rows with a distance of `rows`."""
    draw = torch.Generator().manual_seed(seed)
    hidden_RA = torch.rand(rows, LONGEST_ANSWER, generator=draw) < HIDDEN_SHARE
    hidden_RA[::2] = False
    place_BS = (batch.answer_BS.cumsum(1) - 1).clamp_min(0)
    hidden_BS = hidden_RA.repeat(len(batch.ids_BS) // rows, 1).gather(1, place_BS) & batch.answer_BS
    return replace(batch, shown_BS=batch.ids_BS.masked_fill(hidden_BS, token))


def run(model: Qwen2_5_VLForConditionalGeneration, batch: Dialogues) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the model on text. Returns the hidden states of all layers and the logits."""
    positions = torch.arange(batch.ids_BS.shape[1]).expand(3, len(batch.ids_BS), -1)
    output = model.model.language_model(
        input_ids=batch.shown_BS, position_ids=positions, use_cache=False, output_hidden_states=True
    )
    return output.hidden_states, model.lm_head(output.last_hidden_state)


def cross_entropies(logits_BSV: Tensor, batch: Dialogues) -> dict[str, Tensor]:
    """Return the mean cross-entropy of the answers' tokens, and the share of answers with all tokens right."""
    losses_BS = nn.functional.cross_entropy(logits_BSV[:, :-1].transpose(1, 2), batch.ids_BS[:, 1:], reduction="none")
    answer_BS = batch.answer_BS[:, 1:]
    wrong_BS = (logits_BSV[:, :-1].argmax(-1) != batch.ids_BS[:, 1:]) & answer_BS
    return {
        "answer": losses_BS[answer_BS].mean(),
        "exact": 1 - wrong_BS.any(1).float().mean(),
    }


def states_distance(states: Sequence[Tensor], batch: Dialogues) -> Tensor:
    """Return the mean squared distance of the answers' states between a batch's two halves, over their variance.

    The first half is the goal and gets no gradient.
    """
    half = len(batch.ids_BS) // 2
    total = states[0].new_zeros(())
    for layer_BSH in states[1:]:
        goal, other = layer_BSH[:half][batch.answer_BS[:half]].detach(), layer_BSH[half:][batch.answer_BS[half:]]
        total = total + (other - goal).square().mean() / goal.var(0).mean()
    return total / (len(states) - 1)
