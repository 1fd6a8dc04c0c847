"""Perturbations: other words for the same scene, the same in every run, and short enough for the encoders."""

from __future__ import annotations

from itertools import islice

import pytest

from pipelines import RECIPES
from x2i_platform.mini.languages import describe, phrasings
from x2i_platform.mini.languages.english import PLURALS
from x2i_platform.mini.perturbations import (
    ADJECTIVES,
    NAMES,
    PERTURBATIONS,
    SYNONYMS,
    Perturbation,
    perturb,
    swaps,
)
from x2i_platform.mini.scenes import CATEGORIES, COLOURS, SHAPES, SIZES, Scene, Thing, scenes
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load

CHANGES = tuple(kind for kind in PERTURBATIONS if kind != "unchanged")
each_change = pytest.mark.parametrize("kind", CHANGES)
SCENES = [
    scene
    for category in CATEGORIES
    for held_out in (False, True)
    for scene in islice(scenes(category, held_out=held_out, seed=5), 60)
]
TRAINED = {text for scene in SCENES for text in phrasings(scene, language="english")}
TRAINED_WORDS = {word for text in TRAINED for word in text.split()}
RED_CIRCLE, BLUE_SQUARE = Thing("circle", "red"), Thing("square", "blue")
ABOVE = Scene(Thing("circle", "red", "small"), relation="above", second=Thing("square", "orange", "large"))


def every(scene: Scene, kind: Perturbation) -> set[str]:
    """All that seeds make of a scene."""
    return {perturb(scene, kind=kind, seed=seed) for seed in range(300)}


def test_the_control_is_the_plain_sentence() -> None:
    assert all(perturb(scene, kind="unchanged", seed=seed) == describe(scene) for seed, scene in enumerate(SCENES))


@each_change
def test_every_change_changes_the_words_and_is_the_same_each_time(kind: Perturbation) -> None:
    told = [perturb(scene, kind=kind, seed=seed) for seed, scene in enumerate(SCENES)]
    assert all(text != describe(scene) for text, scene in zip(told, SCENES, strict=True))
    assert told == [perturb(scene, kind=kind, seed=seed) for seed, scene in enumerate(SCENES)]
    assert all("  " not in text and text == text.strip() for text in told)


@pytest.mark.parametrize("kind", ["synonym", "case", "punctuation", "misspelling", "adjective"])
def test_a_change_of_words_is_one_that_no_training_caption_has(kind: Perturbation) -> None:
    for seed, scene in enumerate(SCENES):
        assert perturb(scene, kind=kind, seed=seed) not in TRAINED


def test_a_synonym_stands_for_every_word_that_has_one() -> None:
    assert every(ABOVE, "synonym") == {
        "a tiny red circle above a large orange square",
        "a small red-coloured circle above a large orange square",
        "a small red circle higher than a large orange square",
        "a small red circle above a huge orange square",
        "a small red circle above a large orange-coloured square",
    }
    assert every(Scene(RED_CIRCLE, second=BLUE_SQUARE), "synonym") >= {"a red circle as well as a blue square"}
    alike = Scene(Thing("circle", "red"), second=Thing("square", "red"))
    assert "a red-coloured circle and a red square" in every(alike, "synonym"), "where it stands first"
    assert every(Scene(RED_CIRCLE, count=3), "synonym") == {"3 red circles", "three red-coloured circles"}
    left = Scene(RED_CIRCLE, relation="left of", second=BLUE_SQUARE)
    assert "a red circle on the left side of a blue square" in every(left, "synonym")


def test_synonyms_and_adjectives_are_new_to_the_grammar() -> None:
    for phrase in (*SYNONYMS.values(), *ADJECTIVES):
        assert not any(f" {phrase} " in f" {text} " for text in TRAINED)
    assert len(set(SYNONYMS.values())) == len(SYNONYMS), "no phrase stands for two words"


def test_clauses_change_places_and_say_the_same() -> None:
    for scene, text in (
        (ABOVE, "above a large orange square is a small red circle"),
        (Scene(RED_CIRCLE, relation="left of", second=BLUE_SQUARE), "to the left of a blue square is a red circle"),
        (Scene(RED_CIRCLE, second=BLUE_SQUARE), "a blue square and a red circle"),
        (Scene(Thing("heart", "orange", "small")), "a heart that is small and orange"),
        (Scene(Thing("heart", "orange")), "a heart that is orange"),
        (Scene(Thing("cross", "red", "large"), count=4), "four crosses that are large and red"),
    ):
        assert every(scene, "order") == {text}


@pytest.mark.parametrize("kind", ["case", "punctuation"])
def test_letters_stay_what_they_are(kind: Perturbation) -> None:
    for seed, scene in enumerate(SCENES):
        text = perturb(scene, kind=kind, seed=seed)
        assert text.lower().strip('.!" ') == describe(scene)


def test_a_misspelling_swaps_two_letters_of_one_name() -> None:
    for seed, scene in enumerate(SCENES):
        text, plain = perturb(scene, kind="misspelling", seed=seed).split(), describe(scene).split()
        [(wrong, right)] = [pair for pair in zip(text, plain, strict=True) if pair[0] != pair[1]]
        assert right in {*SHAPES, *PLURALS.values(), *COLOURS, *SIZES}
        assert sorted(wrong) == sorted(right)


def test_no_misspelling_is_another_word() -> None:
    misspelt = {wrong for name in NAMES for wrong in swaps(name)}
    assert len(misspelt) > 50
    assert not misspelt & (TRAINED_WORDS | NAMES)
    owners = [(wrong, name) for name in NAMES for wrong in swaps(name)]
    assert len({wrong for wrong, _ in owners}) == len(owners), "nor could it be of two"


def test_an_adjective_comes_before_the_thing_with_the_article_it_needs() -> None:
    assert every(Scene(Thing("heart", "orange")), "adjective") == {f"a {word} orange heart" for word in ADJECTIVES}
    assert every(Scene(RED_CIRCLE, count=2), "adjective") == {f"two {word} red circles" for word in ADJECTIVES}


def test_prompts_fit_what_teacher_and_student_read() -> None:
    recipe = load("mini", shipped=RECIPES, overrides=[])
    texts = sorted({perturb(scene, kind=kind, seed=seed) for kind in CHANGES for scene in SCENES for seed in range(5)})
    encoders, mllm = TextEncoders.load(recipe.teacher), MLLM.load(recipe.mllm)
    assert max(encoders.num_tokens(text) for text in texts) <= recipe.teacher.text_tokens
    assert max(len(ids) for ids in mllm.tokenize(texts)) <= recipe.mllm.max_tokens
