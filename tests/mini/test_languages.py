"""What holds of every language: captions mean their scene and no other, and keep to their letters and lengths."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter

import pytest

from x2i_platform.mini.languages import LANGUAGES, Language, caption, describe, phrasings
from x2i_platform.mini.scenes import (
    CATEGORIES,
    COLOURS,
    COUNTS,
    RELATIONS,
    SHAPES,
    SIZES,
    Category,
    Colour,
    Scene,
    Shape,
    Thing,
    scenes,
)

LATIN = set("abcdefghijklmnopqrstuvwxyz ")
LETTERS: dict[Language, set[str]] = {
    "english": LATIN | {"-"},
    "german": LATIN | set("äöüßBDGHKQSZ"),
    "french": LATIN | set("àâçéèêœ,'-"),
    "chinese": set(
        "一两三四个圆正方形角五星爱心十字红橙黄绿蓝紫粉黑色大小中等的图有画面上这里着片在位于左右下边侧是和与既也，"
    ),
    "japanese": set("一二三四円正方形角星十字赤黄青緑紫黒色小中大絵左右上下側描オレンジピクハートー、")
    | set("ぁあいうえおかがきぎくぐけげこごさしすせそたちつてとなにぬねのはひふほまみもやゆよらりるれろわをん"),
    "vietnamese": LATIN | set("đàáảãạăắằẳẵặâấầẩẫậèéẻẽẹêếềểễệìíỉĩịòóỏõọôốồổỗộơớờởỡợùúủũụưứừửữựỳýỷỹỵ"),
}
MOST_WORDS = 18
MOST_CHARACTERS: dict[Language, int] = {"chinese": 30, "japanese": 40}

THREE_SHAPES: tuple[Shape, ...] = ("circle", "heart", "star")
TWO_COLOURS: tuple[Colour, ...] = ("orange", "blue")
THREE_COLOURS: tuple[Colour, ...] = ("orange", "green", "blue")


def mixed_scenes(*, num: int, seed: int) -> list[Scene]:
    """All categories, held out or not."""
    streams = [scenes(held_out=held_out, seed=seed) for held_out in (False, True)]
    return [next(stream) for _ in range(num // 2) for stream in streams]


def things_alike() -> list[Scene]:
    """Each scene of one to four things alike."""
    things = itertools.starmap(Thing, itertools.product(SHAPES, COLOURS, (None, *SIZES)))
    return [Scene(thing, count=count) for thing in things for count in (1, *COUNTS)]


def pairs() -> list[Scene]:
    """Each scene of two things that three shapes, two colours, and sizes of both or neither make."""
    sizes = [(None, None), *itertools.product(SIZES, SIZES)]
    return [
        Scene(Thing(first, one_colour, one_size), relation=relation, second=Thing(second, other_colour, other_size))
        for first, second in itertools.permutations(THREE_SHAPES, 2)
        for one_colour, other_colour in itertools.product(TWO_COLOURS, repeat=2)
        for one_size, other_size in sizes
        for relation in (None, *RELATIONS)
    ]


def meaning(scene: Scene) -> frozenset[Scene]:
    """Equal for a scene and its converse alone."""
    return frozenset({scene, scene.converse()} if scene.second else {scene})


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_caption_means_two_scenes(language: Language) -> None:
    meanings: dict[str, frozenset[Scene]] = {}
    for scene in [*things_alike(), *pairs(), *mixed_scenes(num=4000, seed=1)]:
        for said in phrasings(scene, language=language):
            assert meanings.setdefault(said, meaning(scene)) == meaning(scene), said


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("category", CATEGORIES)
def test_each_category_has_several_phrasings(language: Language, category: Category) -> None:
    stream = scenes(category, held_out=False, seed=2)
    for scene in itertools.islice(stream, 200):
        said = phrasings(scene, language=language)
        assert len(said) >= 4
        assert len(set(said)) == len(said)


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_keep_to_their_length_and_letters(language: Language) -> None:
    for scene in mixed_scenes(num=2000, seed=3):
        for said in phrasings(scene, language=language):
            if language in MOST_CHARACTERS:
                assert len(said) <= MOST_CHARACTERS[language], said
            else:
                assert len(said.split()) <= MOST_WORDS, said
            assert set(said) <= LETTERS[language], (said, set(said) - LETTERS[language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longest_pair_keeps_to_its_length(language: Language) -> None:
    for first, second in itertools.permutations(SHAPES, 2):
        for colours in itertools.product(THREE_COLOURS, repeat=2):
            one, other = (Thing(shape, c, "medium") for shape, c in zip((first, second), colours, strict=True))
            for relation in (None, *RELATIONS):
                for said in phrasings(Scene(one, relation=relation, second=other), language=language):
                    length = len(said) if language in MOST_CHARACTERS else len(said.split())
                    assert length <= MOST_CHARACTERS.get(language, MOST_WORDS), said


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_are_plain_text(language: Language) -> None:
    for scene in mixed_scenes(num=500, seed=4):
        for said in phrasings(scene, language=language):
            assert said == unicodedata.normalize("NFC", said)
            assert said == " ".join(said.split())
            assert said[0].islower() or language in ("german", *MOST_CHARACTERS)
            assert said[-1].isalpha()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_seed_draws_one_phrasing_again_and_again(language: Language) -> None:
    for seed, scene in enumerate(mixed_scenes(num=200, seed=5)):
        drawn = caption(scene, language=language, seed=seed)
        assert drawn == caption(scene, language=language, seed=seed)
        assert drawn in phrasings(scene, language=language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("category", CATEGORIES)
def test_seeds_draw_each_phrasing_alike(language: Language, category: Category) -> None:
    scene = next(scenes(category, held_out=False, seed=6))
    said = phrasings(scene, language=language)
    drawn = Counter(caption(scene, language=language, seed=seed) for seed in range(100 * len(said)))
    assert set(drawn) == set(said)
    assert all(50 < count < 150 for count in drawn.values())


def test_captions_of_a_seed_stay_what_they_are() -> None:
    scene = Scene(Thing("circle", "red", "large"), relation="left of", second=Thing("square", "blue", "small"))
    assert [caption(scene, seed=seed) for seed in range(3)] == [
        *("a small blue square to the right of a large red circle",) * 2,
        "a large red circle left of a small blue square",
    ]


def test_the_description_is_the_plainest_english() -> None:
    for scene in mixed_scenes(num=200, seed=7):
        assert describe(scene) == phrasings(scene, language="english")[0]
