"""Trains the vision tower and merger of the miniature MLLM for its frozen language model.

First the tower alone learns to classify each 16-pixel square. Then it learns through the frozen language model, which
answers a picture with its description; the hidden states must be those for an English caption.

Shape suffixes: B batch, S tokens, N merged vision tokens, H width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.drawing import SIDE, Picture, picture
from x2i_platform.mini.languages import caption, describe
from x2i_platform.mini.scenes import COLOURS, SHAPES, SIZES, canonical
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.mini.training.language import (
    Dialogues,
    collate,
    cross_entropies,
    dialogues,
    hidden_token,
    hide,
    run,
)
from x2i_platform.mini.training.trainer import Schedule, train
from x2i_platform.mini.vocabularies import VISION_TOKENS

SEED = 14
PATCH, MERGE, FRAMES = 8, 2, 2
CELL = PATCH * MERGE
CELLS = SIDE // CELL
TOWER_SCHEDULE = Schedule(steps=800, batch=64, lr=2e-3, warmup=100, ema=0.998)
SCHEDULE = Schedule(steps=2000, batch=48, lr=1.5e-3, warmup=100, ema=0.998)
STATES_WEIGHT = 1.0
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Tower(nn.Module):
    """The vision tower with a head that classifies each square. The head is dropped after training."""

    def __init__(self, visual: nn.Module, *, width: int) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.visual = visual
        self.sizes = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, 5, 5)
        self.head = nn.Linear(width, sum(self.sizes))

    def forward(self, patches: Tensor, *, grid: Tensor) -> tuple[Tensor, ...]:
        merged = self.visual(patches, grid_thw=grid).pooler_output
        outputs: tuple[Tensor, ...] = self.head(merged).split(self.sizes, dim=-1)
        return outputs


def pretrain_tower(
    model: Qwen2_5_VLForConditionalGeneration, *, folder: Path, schedule: Schedule = TOWER_SCHEDULE
) -> None:
    """Train the tower alone to classify squares."""
    visual = model.model.visual.requires_grad_(True)
    tower = Tower(visual, width=model.config.text_config.hidden_size)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _tower_loss(tower, count=schedule.batch, step=step)

    train(tower, loss, schedule=schedule, folder=folder, title="tower")


def build(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    *,
    folder: Path,
    schedule: Schedule = SCHEDULE,
) -> None:
    """Train the tower and merger through the frozen language model."""
    model.requires_grad_(False)
    model.model.visual.requires_grad_(True)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(model, tokenizer, count=schedule.batch, step=step)

    train(model, loss, schedule=schedule, folder=folder, title="vision")
    model.requires_grad_(False)


def _tower_loss(tower: Tower, *, count: int, step: int) -> Mapping[str, Tensor]:
    pictures = training_pictures(seed=1_000_003 * SEED + step, count=count)
    outputs = tower(patches_of([one.draw() for one in pictures]), grid=grids(len(pictures)))
    labels = torch.tensor([label for one in pictures for label in cell_labels(one)])
    losses = [nn.functional.cross_entropy(each, labels[:, i]) for i, each in enumerate(outputs)]
    full = labels[:, 0] > 0
    exact = torch.stack([each.argmax(-1) == labels[:, i] for i, each in enumerate(outputs[:3])]).all(0)[full]
    return {"loss": torch.stack(losses).sum(), "exact": exact.float().mean()}


def _loss(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, *, count: int, step: int
) -> Mapping[str, Tensor]:
    pictures = training_pictures(seed=2_000_003 * SEED + step, count=count)
    answers = [describe(canonical(one.scene)) for one in pictures]
    descriptions = [caption(one.scene, seed=step) for one in pictures]
    token = hidden_token(tokenizer)
    shown = hide(vision_dialogues(tokenizer, answers=answers), rows=count, seed=step, token=token)
    states, logits_BSV = run_with_vision(model, shown, patches=patches_of([one.draw() for one in pictures]))
    text = hide(dialogues(tokenizer, descriptions, answers=answers), rows=count, seed=step, token=token)
    with torch.no_grad():
        goals, _ = run(model, text)
    distance = distance_from([layer_BSH[text.answer_BS] for layer_BSH in goals], states, shown)
    figures = cross_entropies(logits_BSV, shown)
    return {"loss": figures["answer"] + STATES_WEIGHT * distance, **figures, "apart": distance}


def distance_from(goals: Sequence[Tensor], states: Sequence[Tensor], batch: Dialogues) -> Tensor:
    """Return the mean squared distance of the answers' states from each layer's `goals (answer tokens, H)`, over their
    variance."""
    distances = [
        (layer_BSH[batch.answer_BS] - goal).square().mean() / goal.var(0).mean()
        for goal, layer_BSH in zip(goals[1:], states[1:], strict=True)
    ]
    return torch.stack(distances).mean()


def training_pictures(*, seed: int, count: int) -> list[Picture]:
    """Draw pictures of scenes that are allowed in training."""
    return [picture(scene, seed=seed) for scene in islice(training_scenes(seed=seed), count)]


def cell_labels(shown: Picture) -> list[tuple[int, int, int, int, int]]:
    """Label each square with the shape, colour and size of the thing at or near its middle, and that thing's position.

    0 means none. The position is the distance of the centres in steps of 8 pixels, from -2 to 2.
    """
    labels = []
    for cell in range(CELLS * CELLS):
        x, y = CELL * (cell % CELLS + 0.5), CELL * (cell // CELLS + 0.5)
        near = [p for p in shown.placed if max(abs(p.x - x), abs(p.y - y)) < p.radius + CELL / 4]
        if not near:
            labels.append((0, 0, 0, 2, 2))
            continue
        chosen = min(near, key=lambda p: max(abs(p.x - x), abs(p.y - y)))
        thing = chosen.thing
        assert thing.size is not None
        right, down = (max(-2, min(2, round(d / 8))) + 2 for d in (chosen.x - x, chosen.y - y))
        named = 1 + SHAPES.index(thing.shape), 1 + COLOURS.index(thing.colour), 1 + SIZES.index(thing.size)
        labels.append((*named, right, down))
    return labels


def patches_of(frames: Sequence[Any]) -> Tensor:
    """Return Qwen2.5-VL's patches of 64-pixel images, each as two frames: `(patches, 3 x 2 x 8 x 8)`."""
    return _patchify(torch.stack([_pixels(frame) for frame in frames]).unsqueeze(1).expand(-1, FRAMES, -1, -1, -1))


def video_patches_of(videos: Sequence[Sequence[Any]]) -> Tensor:
    """Return the patches of videos with equally many frames, from pairs of frames."""
    pixels = torch.stack([torch.stack([_pixels(frame) for frame in video]) for video in videos])
    return _patchify(pixels.view(-1, FRAMES, *pixels.shape[2:]))


def _pixels(frame: Any) -> Tensor:
    pixels = torch.from_numpy(np.array(frame)).float() / 255
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


def _patchify(pairs: Tensor) -> Tensor:
    """Split pairs of frames `(B, 2, 3, 64, 64)` into patches; the four of a merged token are neighbours."""
    blocks = pairs.reshape(len(pairs), FRAMES, 3, CELLS, MERGE, PATCH, CELLS, MERGE, PATCH)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * FRAMES * PATCH * PATCH)


def grids(count: int, *, pairs: int = 1) -> Tensor:
    """Return time, height and width in patches for each image or video."""
    return torch.tensor([[pairs, CELLS * MERGE, CELLS * MERGE]]).expand(count, -1)


def vision_dialogues(
    tokenizer: Any, *, answers: Sequence[str], kind: Literal["image", "video"] = "image", pairs: int = 1
) -> Dialogues:
    """Tokenize chats whose prompt is one image or video."""
    head = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": kind}]}], tokenize=False, add_generation_prompt=True
    )
    pad = VISION_TOKENS[f"{kind}_token"]
    ids = tokenizer(head.replace(pad, pad * (CELLS * CELLS * pairs)), add_special_tokens=False).input_ids
    tails = [[*tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for answer in answers]
    return collate([ids] * len(answers), tails, filler=tokenizer.pad_token_id)


def run_with_vision(
    model: Qwen2_5_VLForConditionalGeneration, batch: Dialogues, *, patches: Tensor, kind: str = "image", pairs: int = 1
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run the model on prompts with one image or video each. Returns the hidden states of all layers and the logits."""
    placeholder = model.config.image_token_id if kind == "image" else model.config.video_token_id
    types_BS = (batch.ids_BS == placeholder).int() * (1 if kind == "image" else 2)
    prefix = ("pixel_values", "image") if kind == "image" else ("pixel_values_videos", "video")
    output = model.model(
        input_ids=batch.shown_BS,
        attention_mask=batch.mask_BS,
        mm_token_type_ids=types_BS,
        use_cache=False,
        output_hidden_states=True,
        **{prefix[0]: patches, f"{prefix[1]}_grid_thw": grids(len(batch.ids_BS), pairs=pairs)},
        **({"second_per_grid_ts": torch.full((len(batch.ids_BS),), 2.0)} if kind == "video" else {}),
    )
    return output.hidden_states, model.lm_head(output.last_hidden_state)
