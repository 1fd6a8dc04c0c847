"""Trains T5 on text alone, so that its tokens encode the positions of things.

A T5 trained by the DiT's loss alone learns shapes and colours, but stays at chance level on which of two things is
the left one. Real T5s know that from pretraining. Learned queries read each thing's attributes from T5's tokens; they
are dropped afterwards. In half of the captions some words are hidden, so that the encoding of a colour doesn't depend
on the shape beside it: held-out combinations never occur in training.

Shape suffixes: B batch, T tokens, D width, R the two things.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from x2i_platform.mini.languages import caption, english
from x2i_platform.mini.scenes import COLOURS, COUNTS, SHAPES, SIZES, Scene, Thing, canonical
from x2i_platform.mini.training.corpus import training_scenes
from x2i_platform.mini.training.trainer import Schedule, train

SEED = 13
SCHEDULE = Schedule(steps=800, batch=128, lr=2e-3, warmup=50, ema=0.99)
TEXT_TOKENS = 24
"""Maximum number of tokens of an English caption."""
DIRECTION_BIAS = 2.0
HIDDEN_SHARE = 0.3
"""Share of hidden words for shapes, colours and sizes, in every other caption."""
NONE = -1
"""Label of an attribute that a caption doesn't have."""
ATTRIBUTES: Mapping[str, int] = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES) + 1}
"""Number of values of each attribute. A size may also be left open."""
ARRANGEMENTS = ("left of", "above", "and", "alone")


class Reader(nn.Module):
    """Three queries over T5's tokens: for the first thing, the second thing and their arrangement."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.queries_RD = nn.Parameter(torch.randn(3, width) * 0.1)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.things = nn.Linear(width, sum(ATTRIBUTES.values()))
        self.scene = nn.Linear(width, len(ARRANGEMENTS) + len(COUNTS) + 1)

    def forward(self, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the things' attributes `(B, 2, A)` and of arrangement and count `(B, 8)`."""
        read_BRD, _ = self.attention(self.queries_RD.expand(len(tokens_BTD), -1, -1), tokens_BTD, tokens_BTD)
        return self.things(read_BRD[:, :2]), self.scene(read_BRD[:, 2])


class Pupil(nn.Module):
    """T5 with the reader that it is trained by."""

    def __init__(self, t5: T5EncoderModel) -> None:
        super().__init__()
        self.t5 = t5
        self.reader = Reader(width=t5.config.d_model)


def build(
    folder: Path, *, config: T5Config, tokenizer: PreTrainedTokenizerBase, schedule: Schedule = SCHEDULE
) -> T5EncoderModel:
    """Train a T5 or resume, and return it frozen."""
    torch.manual_seed(SEED)
    t5 = T5EncoderModel(config)
    _init_position_bias(t5)
    pupil = Pupil(t5)

    def loss(step: int) -> Mapping[str, Tensor]:
        return _loss(pupil, tokenizer, count=schedule.batch, step=step)

    train(pupil, loss, schedule=schedule, folder=folder, title="text")
    return t5.eval().requires_grad_(False)


@torch.no_grad()
def _init_position_bias(t5: T5EncoderModel) -> None:
    """Let one head prefer preceding tokens and one following tokens. Without this, order is learned late or never."""
    attention = t5.encoder.block[0].layer[0].SelfAttention
    bias = attention.relative_attention_bias.weight
    preceding = attention.relative_attention_num_buckets // 2
    bias.zero_()
    bias[:preceding, 0] = DIRECTION_BIAS
    bias[preceding + 1 :, 1] = DIRECTION_BIAS


def _loss(pupil: Pupil, tokenizer: PreTrainedTokenizerBase, *, count: int, step: int) -> Mapping[str, Tensor]:
    chosen = list(islice(training_scenes(seed=1_000_003 * SEED + step), count))
    lessons = [
        lesson(scene, seed=step, hide=row % 2 == 1, unknown=tokenizer.unk_token) for row, scene in enumerate(chosen)
    ]
    ids = tokenizer(
        [one.text for one in lessons], padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt"
    ).input_ids
    things_BRA, scene_BS = pupil.reader(pupil.t5(ids)[0])
    labels_BRA = torch.tensor([one.things for one in lessons])
    stands_B2 = torch.tensor([scene_labels(scene) for scene in chosen])
    scores = things_BRA.split(list(ATTRIBUTES.values()), dim=-1)
    figures = {name: _cross_entropy(scores[i], labels_BRA[..., i]) for i, name in enumerate(ATTRIBUTES)}
    arrangement, number = scene_BS.split([len(ARRANGEMENTS), len(COUNTS) + 1], dim=-1)
    figures["scene"] = _cross_entropy(arrangement, stands_B2[:, 0]) + _cross_entropy(number, stands_B2[:, 1])
    right_BR = (scores[0].argmax(-1) == labels_BRA[..., 0]) | (labels_BRA[..., 0] == NONE)
    figures["right"] = right_BR.all(1).float().mean()
    return {"loss": sum(figures[name] for name in (*ATTRIBUTES, "scene")), **figures}  # type: ignore[dict-item]


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, -2), labels.flatten(), ignore_index=NONE)


@dataclass(frozen=True)
class Lesson:
    """A caption and its labels."""

    text: str
    things: list[list[int]]
    """Shape, colour and size of the first thing, then of the second. NONE if there is none or its word is hidden."""


def lesson(scene: Scene, *, seed: int, hide: bool, unknown: str) -> Lesson:
    """Make a lesson from a scene. First is the left or upper thing, for "and" the one that the caption names first."""
    text, draw = caption(scene, seed=seed), random.Random(f"lesson {scene} {seed}")
    ordered = canonical(scene)
    if scene.second and not scene.relation and text.index(ordered.first.shape) > text.index(ordered.things[1].shape):
        ordered = ordered.converse()
    things = [ordered.first, *([ordered.second] if ordered.second else [])]
    values = dict.fromkeys(value for thing in things for value in (thing.shape, thing.colour, thing.size) if value)
    hidden: set[str] = {value for value in values if hide and draw.random() < HIDDEN_SHARE}
    for value in hidden:
        text = re.sub(rf"\b({'|'.join(_words(value))})\b", unknown, text)
    labels = [_labels(thing, hidden=hidden) for thing in things]
    return Lesson(text, [*labels, *[[NONE] * len(ATTRIBUTES)] * (2 - len(labels))])


def _words(value: str) -> tuple[str, ...]:
    """Return the words for a shape, colour or size in captions, the longest first."""
    return (english.PLURALS.get(value, value), english.SYNONYMS.get(value, value), value)  # type: ignore[call-overload]


def _labels(thing: Thing, *, hidden: set[str]) -> list[int]:
    """Return a thing's labels; NONE for hidden words."""
    return [
        NONE if thing.shape in hidden else SHAPES.index(thing.shape),
        NONE if thing.colour in hidden else COLOURS.index(thing.colour),
        NONE if thing.size in hidden else SIZES.index(thing.size) if thing.size else len(SIZES),
    ]


def scene_labels(scene: Scene) -> list[int]:
    """Return the labels of arrangement and count."""
    relation = canonical(scene).relation
    arrangement = ARRANGEMENTS.index(relation or ("and" if scene.second else "alone"))
    return [arrangement, scene.count - 1]
