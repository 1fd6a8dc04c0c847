"""Pictures: reproducible, things inside the canvas and apart, and everything as the scene says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, islice

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from x2i_platform.mini.drawing import (
    GROUND,
    OUTLINES,
    PALETTE,
    RADII,
    RADIUS_JITTER,
    SIDE,
    Picture,
    Placed,
    draw_things,
    picture,
)
from x2i_platform.mini.scenes import CATEGORIES, RELATIONS, SHAPES, SIZES, Category, Scene, Shape, Thing, scenes

each_category = pytest.mark.parametrize("category", CATEGORIES)


def pictures(category: Category, *, num: int) -> Iterator[tuple[Scene, Picture]]:
    """Half of them of scenes that are held out."""
    for held_out in (False, True):
        for seed, scene in enumerate(islice(scenes(category, held_out=held_out, seed=2), num // 2)):
            yield scene, picture(scene, seed=seed)


def pieces(image: Image.Image) -> list[tuple[slice, slice]]:
    """The boxes of all that differs from the ground at all; pixels that touch by a corner are one piece."""
    differs = (np.asarray(image) != GROUND).any(axis=-1)
    return list(ndimage.find_objects(ndimage.label(differs, structure=np.ones((3, 3)))[0]))


def test_a_seed_always_gives_the_same_picture() -> None:
    scene = Scene(Thing("star", "pink"), relation="above", second=Thing("square", "black"))
    shown = picture(scene, seed=4)
    assert shown == picture(scene, seed=4)
    assert shown.draw().tobytes() == picture(scene, seed=4).draw().tobytes()
    assert shown.scene == Scene(
        Thing("star", "pink", "small"), relation="above", second=Thing("square", "black", "small")
    )
    star, square = shown.placed
    assert (star.x, star.y, star.radius) == pytest.approx((31.812605, 14.538660, 5.896020))
    assert (square.x, square.y, square.radius) == pytest.approx((33.021303, 49.963267, 5.970304))


@each_category
def test_another_seed_gives_another_picture(category: Category) -> None:
    scene = next(scenes(category, held_out=False, seed=1))
    assert len({picture(scene, seed=seed).draw().tobytes() for seed in range(10)}) == 10


@each_category
def test_things_are_inside_the_canvas_and_apart(category: Category) -> None:
    for _, shown in pictures(category, num=600):
        image = shown.draw()
        assert (image.mode, image.size) == ("RGB", (SIDE, SIDE))
        boxes = pieces(image)
        assert len(boxes) == len(shown.placed)
        assert all(extent.start > 0 and extent.stop < SIDE for box in boxes for extent in box)


@each_category
def test_the_picture_shows_what_the_scene_says(category: Category) -> None:
    for scene, shown in pictures(category, num=600):
        assert tuple(each.thing for each in shown.placed) == shown.scene.things
        assert (shown.scene.count, len(shown.placed)) == (scene.count, len(scene.things))
        for said, seen in zip(scene.things, shown.scene.things, strict=True):
            assert (seen.shape, seen.colour) == (said.shape, said.colour)
            assert seen.size in SIZES
            assert said.size in (None, seen.size)
        assert scene.relation in (None, shown.scene.relation)


@each_category
def test_sizes_are_as_said(category: Category) -> None:
    for _, shown in pictures(category, num=300):
        assert len({each.radius for each in shown.placed if shown.scene.count > 1}) <= 1, "a count's things are alike"
        heights = sorted(rows.stop - rows.start for rows, _ in pieces(shown.draw()))
        expected = []
        for each in shown.placed:
            assert each.thing.size is not None
            assert each.radius == pytest.approx(RADII[each.thing.size], rel=RADIUS_JITTER)
            ys = [y for _, y in OUTLINES[each.thing.shape]]
            expected.append(each.radius * (max(ys) - min(ys)))
        assert heights == pytest.approx(sorted(expected), abs=2), "a pixel more at either end, covered in part"


def test_relations_are_as_said() -> None:
    for category in ("position", "binding"):
        for _, shown in pictures(category, num=600):
            first, second = shown.placed
            x, y = second.x - first.x, second.y - first.y
            along, across, relation = (x, y, ("left of", "right of")) if abs(x) > abs(y) else (y, x, ("above", "below"))
            assert shown.scene.relation == relation[along < 0]
            assert abs(along) > 5 * abs(across)


def test_what_a_caption_leaves_open_varies() -> None:
    unsized = Scene(Thing("heart", "red"))
    assert {picture(unsized, seed=seed).scene.first.size for seed in range(50)} == set(SIZES)
    both = Scene(Thing("heart", "red"), second=Thing("cross", "blue"))
    assert {picture(both, seed=seed).scene.relation for seed in range(50)} == set(RELATIONS)


def test_and_avoids_the_arrangements_held_out_of_training() -> None:
    both = Scene(Thing("circle", "red"), second=Thing("heart", "blue"))
    assert {picture(both, seed=seed).scene.relation for seed in range(100)} == set(RELATIONS) - {"left of"}
    turned = both.converse()
    assert {picture(turned, seed=seed).scene.relation for seed in range(100)} == set(RELATIONS) - {"right of"}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_the_area_of_its_outline_in_its_colour(shape: Shape) -> None:
    image = draw_things((Placed(Thing(shape, "black"), x=32, y=32, radius=20),))
    sides = zip(OUTLINES[shape], [*OUTLINES[shape][1:], OUTLINES[shape][0]], strict=True)
    area = 20**2 * abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in sides)) / 2
    darkness = (np.asarray(image, dtype=float) - GROUND) / (np.array(PALETTE["black"]) - GROUND)
    assert darkness.sum() / 3 == pytest.approx(area, rel=0.05)


def test_later_things_lie_over_earlier_ones() -> None:
    under, over = (Placed(Thing("square", colour), x=32, y=32, radius=9) for colour in ("red", "blue"))
    assert draw_things((under, over)).getpixel((32, 32)) == PALETTE["blue"]


def test_colours_and_shapes_can_be_told_apart() -> None:
    colours = [*PALETTE.values(), GROUND]
    assert min(math.dist(first, second) for first, second in combinations(colours, 2)) > 75
    images = [np.asarray(draw_things((Placed(Thing(s, "black"), x=32, y=32, radius=6),)), dtype=int) for s in SHAPES]
    assert min((abs(a - b).sum(axis=-1) > 300).sum() for a, b in combinations(images, 2)) > 10
