"""Trains the whole miniature MLLM on videos, and further on pictures and captions.

The language model is trained too, because only it sees frames of different times together. A loss keeps the states of
its answers close to those of the language stage.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.languages import LANGUAGES, caption, describe
from x2i_platform.mini.scenes import canonical
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.mini.training.language import (
    Dialogues,
    cross_entropies,
    dialogues,
    hidden_token,
    hide,
    run,
)
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.training.vision import (
    distance_from,
    patches_of,
    run_with_vision,
    training_pictures,
    video_patches_of,
    vision_dialogues,
)
from x2i_platform.mini.video import FRAMES, frames

SEED = 15
PAIRS = FRAMES // 2
SCHEDULE = Schedule(steps=500, batch=24, lr=6e-4, warmup=50, ema=0.99)
"""The batch counts each kind: captions, pictures, videos."""
STATES_WEIGHT = 1.0


def build(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    folder: Path,
    schedule: Schedule = SCHEDULE,
) -> None:
    """Train the whole model in place, or resume."""
    fixed = copy.deepcopy(model).requires_grad_(False)
    model.requires_grad_(True)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(model, fixed, tokenizer, count=schedule.batch, step=step)

    train(model, loss, schedule=schedule, folder=folder, title="video")
    model.requires_grad_(False)


def _loss(model: Any, fixed: Any, tokenizer: Qwen2Tokenizer, *, count: int, step: int) -> Mapping[str, Tensor]:
    """Sum the losses of captions, pictures and videos. Only captions may leave sizes and positions open."""
    draw = random.Random(f"video {SEED} {step}")
    seed = 1_000_003 * SEED + step
    pictures = training_pictures(seed=seed, count=2 * count)
    shown, filmed = pictures[:count], pictures[count:]
    captioned = list(islice(training_scenes(seed=seed), count))
    chosen = [*captioned, *(one.scene for one in pictures)]
    answers = [describe(canonical(scene)) for scene in chosen]

    def hidden(batch: Dialogues) -> Dialogues:
        return hide(batch, rows=count, seed=step, token=hidden_token(tokenizer))

    english = hidden(dialogues(tokenizer, [caption(scene, seed=step) for scene in chosen], answers=answers))
    with torch.no_grad():
        goals, _ = run(fixed, english)

    descriptions = [caption(scene, language=draw.choice(LANGUAGES), seed=step + 1) for scene in captioned]
    text = hidden(dialogues(tokenizer, descriptions, answers=answers[:count]))
    image = hidden(vision_dialogues(tokenizer, answers=answers[count : 2 * count]))
    video = hidden(vision_dialogues(tokenizer, answers=answers[2 * count :], kind="video", pairs=PAIRS))
    clips = video_patches_of([frames(one, seed=step) for one in filmed])
    outputs: dict[str, tuple[Dialogues, Any]] = {
        "text": (text, run(model, text)),
        "image": (image, run_with_vision(model, image, patches=patches_of([one.draw() for one in shown]))),
        "video": (video, run_with_vision(model, video, patches=clips, kind="video", pairs=PAIRS)),
    }
    figures: dict[str, Tensor] = {}
    for index, (kind, (batch, (states, logits_BSV))) in enumerate(outputs.items()):
        found = cross_entropies(logits_BSV, batch)
        part = slice(index * count, (index + 1) * count)
        goal = [layer_BSH[part][english.answer_BS[part]] for layer_BSH in goals]
        distance = distance_from(goal, states, batch)
        figures |= {kind: found["answer"], f"{kind}_exact": found["exact"], f"{kind}_apart": distance}
    losses = [figures[kind] + STATES_WEIGHT * figures[f"{kind}_apart"] for kind in outputs]
    return {"loss": torch.stack(losses).sum(), **figures}
