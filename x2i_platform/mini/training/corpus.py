"""The training data of the miniature: scenes, captions and pictures, all drawn from seeds."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from x2i_platform.mini.languages import LANGUAGES, Language, caption, chinese, japanese
from x2i_platform.mini.scenes import CATEGORIES, Category, Scene, scenes

SHARES: dict[Category, int] = {"single": 2, "colour": 1, "count": 4, "position": 6, "binding": 3}
"""Weights of the categories in training; harder ones have more."""

CAPTIONS, CAPTIONS_SEED = 6000, 77
"""Number and seed of the English captions that ship."""
CAPTION_SHARES: dict[Category, int] = {"single": 2, "colour": 1, "count": 4, "position": 6, "binding": 7}
"""Weights of the categories in them; the teacher's hardest one has the most."""

_WORDS = [
    word
    for grammar in (chinese, japanese)
    for word in sorted({*grammar.NOUNS.values(), *grammar.COLOURS.values()}, key=lambda word: (-len(word), word))
]
UNSPACED_WORDS = re.compile(f"({'|'.join(map(re.escape, _WORDS))})")
"""Matches a shape or colour in Chinese and Japanese."""


def training_scenes(
    *, seed: int, sized: bool | None = None, shares: Mapping[Category, int] = SHARES
) -> Iterator[Scene]:
    """Yield endless random scenes, none held out."""
    draw = random.Random(f"training {seed}")
    sources = {category: scenes(category, held_out=False, seed=seed, sized=sized) for category in CATEGORIES}
    while True:
        (category,) = draw.choices(list(shares), weights=list(shares.values()))
        yield next(sources[category])


def tokenizer_texts(language: Language, *, count: int = 4000) -> list[str]:
    """Return captions to train a tokenizer on."""
    return [
        caption(scene, language=language, seed=seed)
        for seed, scene in enumerate(islice(training_scenes(seed=1), count))
    ]


def all_tokenizer_texts() -> list[str]:
    """Return captions in all languages. Chinese and Japanese ones are split so that no token spans two words."""
    texts = [text for language in LANGUAGES for text in tokenizer_texts(language)]
    return [piece for text in texts for piece in UNSPACED_WORDS.split(text) if piece]


def distillation_captions() -> list[str]:
    """Return the distinct English captions that ship, for AlignNet to learn from, in all phrasings."""
    chosen: dict[str, None] = {}
    for number, scene in enumerate(training_scenes(seed=CAPTIONS_SEED, shares=CAPTION_SHARES)):
        chosen[caption(scene, seed=number)] = None
        if len(chosen) == CAPTIONS:
            break
    return list(chosen)


def pixels_of(images: list[Image.Image]) -> Tensor:
    """Return RGB images as `(B, 3, 64, 64)` with values from -1 to 1."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1
