"""What training sees and how it is cut into tokens: nothing held out, and the words that matter apart."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2Tokenizer

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.languages import LANGUAGES, Language, chinese, english, french, german, japanese, phrasings
from x2i_platform.mini.languages import vietnamese as vietnamese_words
from x2i_platform.mini.scenes import (
    CATEGORIES,
    COLOURS,
    CONVERSE,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    SHAPES,
    Scene,
    scenes,
)
from x2i_platform.mini.training import dit
from x2i_platform.mini.training import text as text_encoder
from x2i_platform.mini.training.corpus import SHARES, pixels_of, tokenizer_texts, training_scenes
from x2i_platform.mini.vocabularies import clip_tokenizer, t5_tokenizer

MANY = 8000
TEXT_TOKENS = 24
"""What every caption fits in, and a third of it to spare."""
FEW = 4
each_language = pytest.mark.parametrize("language", LANGUAGES)

SHAPE_WORDS: dict[Language, list[str]] = {
    "english": [*SHAPES, *english.PLURALS.values()],
    "german": [form for noun in german.NOUNS.values() for form in noun[1:]],
    "french": [form for noun in french.NOUNS.values() for form in noun[1:]],
    "chinese": [*chinese.NOUNS.values()],
    "japanese": [*japanese.NOUNS.values()],
    "vietnamese": [*vietnamese_words.NOUNS.values()],
}
COLOUR_WORDS: dict[Language, list[str]] = {
    "english": [*COLOURS],
    "german": [german.STEMS[colour] for colour in COLOURS],
    "french": [form for adjective in french.COLOURS.values() for form in adjective],
    "chinese": [*chinese.COLOURS.values()],
    "japanese": [*japanese.COLOURS.values()],
    "vietnamese": [*vietnamese_words.COLOURS.values()],
}


@cache
def captions(language: Language) -> list[str]:
    """Every phrasing of hundreds of scenes, a half of them held out."""
    drawn = [scene for held_out in (False, True) for scene in islice(scenes(held_out=held_out, seed=7), 250)]
    return sorted({text for scene in drawn for text in phrasings(scene, language=language)})


def finder(words: list[str], *, language: Language) -> re.Pattern[str]:
    """A word wherever it stands, with its ending; the longest first."""
    one = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
    return re.compile(one if language in ("chinese", "japanese") else rf"(?<!\w)(?:{one})\w*")


def tokens_of(word: re.Match[str], *, offsets: list[tuple[int, int]]) -> set[int]:
    return {index for index, (start, end) in enumerate(offsets) if start < word.end() and end > word.start()}


def shows_held_out(scene: Scene) -> bool:
    """Written without the code under test."""
    names = set()
    if scene.second is not None and scene.relation is not None:
        first, second = scene.first.shape, scene.second.shape
        names = {(first, scene.relation, second), (second, CONVERSE[scene.relation], first)}
    colours = {(thing.colour, thing.shape) for thing in scene.things}
    return bool(colours & HELD_OUT_COLOURS or names & HELD_OUT_RELATIONS)


@pytest.mark.parametrize("sized", [None, True])
def test_training_never_sees_what_is_held_out(sized: bool | None) -> None:
    for seed, scene in enumerate(islice(training_scenes(seed=5, sized=sized), MANY)):
        assert not shows_held_out(scene)
        assert not shows_held_out(picture(scene, seed=seed).scene)


def test_a_seed_always_gives_the_same_scenes() -> None:
    first, again, other = (list(islice(training_scenes(seed=seed), 30)) for seed in (1, 1, 2))
    assert first == again != other


def test_harder_categories_are_seen_more_often() -> None:
    counts = Counter(scene.category for scene in islice(training_scenes(seed=3), MANY))
    total = sum(SHARES.values())
    assert {name: counts[name] / MANY for name in CATEGORIES} == pytest.approx(
        {name: share / total for name, share in SHARES.items()}, abs=0.02
    )


@each_language
def test_a_colour_and_a_shape_are_a_few_tokens_each_and_share_none(language: Language, words: Qwen2Tokenizer) -> None:
    texts = captions(language)
    shapes, colours = (finder(each[language], language=language) for each in (SHAPE_WORDS, COLOUR_WORDS))
    found: set[str] = set()
    for text, offsets in zip(
        texts, words(texts, add_special_tokens=False, return_offsets_mapping=True).offset_mapping, strict=True
    ):
        named = {word: tokens_of(word, offsets=offsets) for word in shapes.finditer(text)}
        coloured = {word: tokens_of(word, offsets=offsets) for word in colours.finditer(text)}
        assert named and coloured, text
        assert not set().union(*named.values()) & set().union(*coloured.values()), text
        assert all(len(tokens) <= FEW for tokens in (named | coloured).values()), text
        found |= {word.group() for word in named | coloured}
    assert len(found) >= len(SHAPES) + len(COLOURS)


@each_language
def test_no_token_holds_two_shapes_or_two_colours(language: Language, words: Qwen2Tokenizer) -> None:
    texts = captions(language)
    for listed in (SHAPE_WORDS, COLOUR_WORDS):
        pattern = finder(listed[language], language=language)
        for text, offsets in zip(
            texts, words(texts, add_special_tokens=False, return_offsets_mapping=True).offset_mapping, strict=True
        ):
            each = [tokens_of(word, offsets=offsets) for word in pattern.finditer(text)]
            assert sum(map(len, each)) == len(set().union(*each)), text


@each_language
def test_captions_are_short_and_lose_nothing(language: Language, words: Qwen2Tokenizer) -> None:
    texts = captions(language)
    ids = words(texts, add_special_tokens=False).input_ids
    assert max(map(len, ids)) <= TEXT_TOKENS
    assert words.batch_decode(ids) == texts
    assert len({tuple(each) for each in ids}) == len(texts)


def test_english_captions_fit_the_teachers_encoders() -> None:
    """They are padded to that length, not cut to it."""
    learnt = tokenizer_texts("english")
    t5 = t5_tokenizer(learnt)
    assert not any(t5.unk_token_id in each for each in t5(captions("english")).input_ids)
    for tokenizer, limit in ((t5, text_encoder.TEXT_TOKENS), (clip_tokenizer(learnt), dit.CLIP_TOKENS)):
        ids = tokenizer(captions("english")).input_ids
        assert max(map(len, ids)) <= limit


@each_language
def test_a_tokenizer_learns_from_the_training_scenes_alone(language: Language) -> None:
    allowed = {text for scene in islice(training_scenes(seed=1), 200) for text in phrasings(scene, language=language)}
    assert set(tokenizer_texts(language, count=200)) <= allowed


def test_pixels_lie_from_minus_one_to_one_channels_first() -> None:
    image = Image.new("RGB", (64, 64), (255, 0, 51))
    image.putpixel((3, 10), (0, 255, 0))  # x, y
    pixels = pixels_of([image, Image.new("RGB", (64, 64))])
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0, :, 0, 0], [1, -1, -0.6], atol=1e-6)
    np.testing.assert_allclose(pixels[0, :, 10, 3], [-1, 1, -1], atol=1e-6)
    assert pixels[1].eq(-1).all()
