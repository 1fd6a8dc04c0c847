"""Scenes: reproducible, and nothing held out reaches training under any name or in any picture."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice, permutations

import pytest

from x2i_platform.mini.drawing import picture
from x2i_platform.mini.scenes import (
    CATEGORIES,
    COLOURS,
    CONVERSE,
    COUNTS,
    HELD_OUT_COLOURS,
    HELD_OUT_RELATIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Category,
    Relation,
    Scene,
    Shape,
    Thing,
    canonical,
    is_relation_held_out,
    scenes,
)

each_category = pytest.mark.parametrize("category", CATEGORIES)
MANY = 3000


def many(category: Category | None, *, held_out: bool, seed: int = 1, sized: bool | None = None) -> list[Scene]:
    return list(islice(scenes(category, held_out=held_out, seed=seed, sized=sized), MANY))


def names(scene: Scene) -> set[tuple[Shape, Relation, Shape]]:
    """An arrangement under both of its names; written without the code under test."""
    if scene.second is None or scene.relation is None:
        return set()
    first, second = scene.first.shape, scene.second.shape
    return {(first, scene.relation, second), (second, CONVERSE[scene.relation], first)}


def shows_held_out(scene: Scene) -> bool:
    colours = {(thing.colour, thing.shape) for thing in scene.things}
    return bool(colours & HELD_OUT_COLOURS or names(scene) & HELD_OUT_RELATIONS)


def test_a_seed_always_gives_the_same_scenes() -> None:
    drawn = [next(scenes(category, held_out=False, seed=0)) for category in CATEGORIES]
    assert drawn == [
        Scene(Thing("triangle", "yellow", "medium")),
        Scene(Thing("triangle", "pink")),
        Scene(Thing("circle", "yellow"), count=4),
        Scene(Thing("square", "green"), relation="below", second=Thing("circle", "orange")),
        Scene(Thing("triangle", "red", "small"), second=Thing("heart", "purple", "medium")),
    ]
    assert next(scenes("colour", held_out=True, seed=5)) == Scene(Thing("heart", "orange"))
    assert next(scenes("count", held_out=False, seed=9, sized=True)) == Scene(
        Thing("triangle", "pink", "small"), count=4
    )


def test_other_seeds_give_other_scenes() -> None:
    first, second = (list(islice(scenes(held_out=False, seed=seed), 20)) for seed in (1, 2))
    assert first != second


@each_category
def test_training_never_sees_what_is_held_out(category: Category) -> None:
    for seed, scene in enumerate(many(category, held_out=False)):
        shown = picture(scene, seed=seed).scene
        assert not shows_held_out(scene)
        assert not shows_held_out(shown)
        assert not scene.is_held_out
        assert not shown.is_held_out


@each_category
def test_held_out_scenes_are_held_out_and_stay_so_in_full(category: Category) -> None:
    for seed, scene in enumerate(many(category, held_out=True)):
        assert shows_held_out(scene)
        assert shows_held_out(picture(scene, seed=seed).scene)


@pytest.mark.parametrize("held_out", [False, True])
def test_every_category_is_drawn(held_out: bool) -> None:
    shares = Counter(scene.category for scene in many(None, held_out=held_out))
    assert set(shares) == set(CATEGORIES)
    assert min(shares.values()) > MANY / 20


@each_category
@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_are_of_the_category_asked_for(category: Category, held_out: bool) -> None:
    assert {scene.category for scene in many(category, held_out=held_out)} == {category}


def test_held_out_combinations_are_as_many_as_declared() -> None:
    arrangements = {
        frozenset(names(Scene(Thing(first, "red"), relation=relation, second=Thing(second, "red"))))
        for first, second in combinations(SHAPES, 2)
        for relation in RELATIONS
    }
    held_out = {each for each in arrangements if each & HELD_OUT_RELATIONS}
    assert (len(held_out), len(arrangements)) == (8, 60)
    assert (len(HELD_OUT_COLOURS), len(COLOURS) * len(SHAPES)) == (6, 48)
    assert {shape for _, shape in HELD_OUT_COLOURS} == set(SHAPES)


def test_training_sees_everything_that_is_not_held_out() -> None:
    seen = [scene for category in CATEGORIES for scene in many(category, held_out=False)]
    colours = {(thing.colour, thing.shape) for scene in seen for thing in scene.things}
    assert colours == {(colour, shape) for colour in COLOURS for shape in SHAPES} - HELD_OUT_COLOURS
    told = {name for scene in seen for name in names(scene)}
    assert len(told) == 2 * (60 - 8)
    assert {scene.count for scene in seen} == {1, *COUNTS}
    assert {thing.size for scene in seen for thing in scene.things} == {None, *SIZES}


def test_held_out_positions_hold_enough_of_either_kind() -> None:
    held_out = many("position", held_out=True)
    relations = sum(bool(names(scene) & HELD_OUT_RELATIONS) for scene in held_out)
    colours = sum(
        bool({(thing.colour, thing.shape) for thing in scene.things} & HELD_OUT_COLOURS) for scene in held_out
    )
    assert relations > MANY / 3
    assert colours > MANY / 4


@pytest.mark.parametrize("category", ["position", "binding"])
def test_the_converse_says_the_same(category: Category) -> None:
    for held_out in (False, True):
        for scene in many(category, held_out=held_out):
            turned = scene.converse()
            assert turned != scene
            assert turned.converse() == scene
            assert turned.is_held_out == scene.is_held_out
            assert turned.category == scene.category
            assert names(turned) == names(scene)
            assert canonical(turned) == canonical(scene)
            assert canonical(scene) in (scene, turned)
            assert canonical(scene).relation in (None, "left of", "above")


def test_relations_are_held_out_under_both_names_and_no_others_are() -> None:
    pairs = [(first, relation, second) for first, second in permutations(SHAPES, 2) for relation in RELATIONS]
    held_out = {each for each in pairs if is_relation_held_out(*each)}
    turned = {(second, CONVERSE[relation], first) for first, relation, second in HELD_OUT_RELATIONS}
    assert held_out == HELD_OUT_RELATIONS | turned
    assert len(held_out) == 16


@each_category
@pytest.mark.parametrize("sized", [False, True])
def test_sized_decides_whether_sizes_are_said(category: Category, sized: bool) -> None:
    for scene in islice(scenes(category, held_out=False, seed=3, sized=sized), 300):
        assert all((thing.size is not None) == sized for thing in scene.things)


@pytest.mark.parametrize("category", ["count", "position", "binding"])
def test_left_to_chance_things_are_sized_together_in_half_the_scenes(category: Category) -> None:
    sized = [{thing.size is not None for thing in scene.things} for scene in many(category, held_out=False)]
    assert all(len(each) == 1 for each in sized)
    assert 0.4 < sum(True in each for each in sized) / MANY < 0.6


def test_two_things_of_one_shape_are_refused() -> None:
    with pytest.raises(AssertionError, match="a count"):
        Scene(Thing("star", "red"), second=Thing("star", "blue"))
