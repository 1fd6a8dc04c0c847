"""The judge: every true rendering is right, also somewhat spoilt, and everything else in the world is wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import islice, pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

from x2i_platform.mini.drawing import GROUND, OUTLINES, PALETTE, RADII, SIDE, Picture, Placed, draw_things, picture
from x2i_platform.mini.judge import judge, read_picture
from x2i_platform.mini.scenes import (
    CATEGORIES,
    COLOURS,
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

each_category = pytest.mark.parametrize("category", CATEGORIES)
RED_CIRCLE = Thing("circle", "red", "medium")
BLUE_STAR = Thing("star", "blue", "medium")
BLUE_CIRCLE, RED_STAR = Thing("circle", "blue", "medium"), Thing("star", "red", "medium")
LEFT_OF = Scene(RED_CIRCLE, relation="left of", second=BLUE_STAR)
RIGHT = (True, "")


def pictures(category: Category | None, *, num: int, seed: int = 0) -> Iterator[tuple[Scene, Picture]]:
    """Half of them of scenes that are held out."""
    for held_out in (False, True):
        for each, scene in enumerate(islice(scenes(category, held_out=held_out, seed=seed), num // 2)):
            yield scene, picture(scene, seed=each)


def verdict(image: Image.Image, scene: Scene) -> tuple[bool, str]:
    judged = judge(image, scene)
    return judged.right, judged.reason


def place(thing: Thing, *, x: float = 32, y: float = 32, radius: float = 9) -> Placed:
    return Placed(thing, x=x, y=y, radius=radius)


def blurred(image: Image.Image, *, seed: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.7))


def noisy(image: Image.Image, *, seed: int) -> Image.Image:
    return shifted_by(image, np.random.default_rng(seed).integers(-6, 7, size=(SIDE, SIDE, 3)))


def off_colour(image: Image.Image, *, seed: int) -> Image.Image:
    return shifted_by(image, np.random.default_rng(seed).integers(-10, 11, size=3))


def shifted_by(image: Image.Image, offset: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image, dtype=int) + offset, 0, 255).astype(np.uint8))


def compressed(image: Image.Image, *, seed: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=90)
    return Image.open(file)


def wobbly(image: Image.Image, *, seed: int) -> Image.Image:
    """Contours moved to and fro by a third of a pixel (root mean square; up to 1) in waves some 6 pixels wide."""
    waves = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(2, SIDE, SIDE)), (0, 3, 3))
    y, x = np.mgrid[:SIDE, :SIDE] + waves * (0.35 / waves.std())
    channels = np.moveaxis(np.asarray(image, dtype=float), -1, 0)
    moved = [ndimage.map_coordinates(channel, (y, x), order=1, mode="nearest") for channel in channels]
    return Image.fromarray(np.stack(moved, axis=-1).round().astype(np.uint8))


def enlarged(image: Image.Image, *, seed: int) -> Image.Image:
    return image.resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)


@each_category
def test_true_renderings_are_right_as_said_and_in_full(category: Category) -> None:
    for scene, shown in pictures(category, num=620):
        image = shown.draw()
        assert verdict(image, scene) == RIGHT
        assert shown.scene == scene or verdict(image, shown.scene) == RIGHT


@pytest.mark.parametrize("spoil", [blurred, noisy, off_colour, compressed, wobbly, enlarged])
def test_slightly_spoilt_renderings_are_still_right(spoil: Callable[..., Image.Image]) -> None:
    for seed, (_, shown) in enumerate(pictures(None, num=200, seed=1)):
        assert verdict(spoil(shown.draw(), seed=seed), shown.scene) == RIGHT


def test_detections_lie_where_the_things_were_drawn() -> None:
    for _, shown in pictures(None, num=200, seed=2):
        seen, _ = read_picture(shown.draw())
        assert len(seen) == len(shown.placed)
        for placed in shown.placed:
            found = min(seen, key=lambda each: math.dist((each.x, each.y), (placed.x, placed.y)))
            assert Thing(found.shape, found.colour, found.size) == placed.thing
            assert (found.x, found.y, found.radius) == pytest.approx((placed.x, placed.y, placed.radius), abs=0.5)
            assert 0.85 < found.fit <= 1


def is_true_of(said: Scene, shown: Scene) -> bool:
    """Whether a scene in full is one that another scene says, told from either thing."""
    return any(_covers(said, told) for told in ([shown, shown.converse()] if shown.second else [shown]))


def _covers(said: Scene, shown: Scene) -> bool:
    return (
        len(said.things) == len(shown.things)
        and said.relation in (None, shown.relation)
        and all(
            (one.shape, one.colour) == (other.shape, other.colour) and one.size in (None, other.size)
            for one, other in zip(said.things, shown.things, strict=True)
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_other_scenes_are_wrong(seed: int) -> None:
    others = scenes(held_out=bool(seed % 2), seed=100 + seed)
    for _, shown in pictures(None, num=400, seed=seed):
        other = next(others)
        judged = verdict(shown.draw(), other)
        assert judged[0] == is_true_of(other, shown.scene), judged


def near_misses(scene: Scene, *, draw: random.Random) -> list[Scene]:
    """Scenes that differ in a single respect from one told in full."""
    one, other, relation = scene.first, scene.second, scene.relation
    shapes = [shape for shape in SHAPES if shape != one.shape and not (other and shape == other.shape)]
    changed = [
        replace(one, colour=draw.choice([colour for colour in COLOURS if colour != one.colour])),
        replace(one, shape=draw.choice(shapes)),
        replace(one, size=draw.choice([size for size in SIZES if size != one.size])),
    ]
    misses = [replace(scene, first=thing) for thing in changed]
    if other is None or relation is None:
        counts = [count for count in (scene.count - 1, scene.count + 1) if 1 <= count <= 4]
        return [*misses, *(replace(scene, count=count) for count in counts)]
    misses += [replace(scene, relation=each) for each in RELATIONS if each != relation]
    misses += [Scene(one), Scene(other), Scene(one, count=2)]
    swapped = Scene(replace(one, colour=other.colour), relation=relation, second=replace(other, colour=one.colour))
    resized = Scene(replace(one, size=other.size), relation=relation, second=replace(other, size=one.size))
    return [each for each in [*misses, swapped, resized] if not is_true_of(each, scene)]


@each_category
def test_near_misses_are_wrong(category: Category) -> None:
    draw = random.Random(0)
    for seed, (_, shown) in enumerate(pictures(category, num=80, seed=3)):
        image = shown.draw()
        image = random.Random(seed).choice([image, blurred(image, seed=seed), compressed(image, seed=seed)])
        for miss in near_misses(shown.scene, draw=draw):
            assert not judge(image, miss).right, (miss, shown.scene)


@pytest.mark.parametrize(
    ("placed", "scene", "reason"),
    [
        ([place(RED_CIRCLE, x=16)], Scene(RED_CIRCLE, count=2), "1 thing, not 2"),
        ([place(RED_CIRCLE, x=16), place(RED_CIRCLE, x=48)], Scene(RED_CIRCLE), "2 things, not 1"),
        ([], Scene(RED_CIRCLE), "0 things, not 1"),
        ([place(BLUE_STAR)], Scene(replace(BLUE_STAR, colour="orange")), "a blue star, not an orange one"),
        ([place(BLUE_STAR)], Scene(RED_CIRCLE), "a blue star, not a red circle"),
        ([place(BLUE_STAR)], Scene(replace(BLUE_STAR, size="large")), "a medium blue star, not a large one"),
        ([place(RED_CIRCLE, x=48), place(BLUE_STAR, x=16)], LEFT_OF, "not left of"),
        ([place(RED_CIRCLE, x=16, y=16), place(BLUE_STAR, x=48, y=48)], LEFT_OF, "not left of"),
        ([place(BLUE_CIRCLE, x=16), place(RED_STAR, x=48)], LEFT_OF, "a blue circle, not a red one"),
        ([place(RED_CIRCLE, radius=18)], Scene(RED_CIRCLE), "a circle of no known size: radius 18.0"),
    ],
)
def test_the_reason_names_the_difference(placed: list[Placed], scene: Scene, reason: str) -> None:
    assert verdict(draw_things(tuple(placed)), scene) == (False, reason)


def test_and_allows_any_arrangement_of_both() -> None:
    image = draw_things((place(RED_CIRCLE, x=15, y=20), place(BLUE_STAR, x=45, y=50)))
    assert verdict(image, Scene(RED_CIRCLE, second=BLUE_STAR)) == RIGHT
    assert verdict(image, Scene(BLUE_STAR, second=RED_CIRCLE)) == RIGHT


def test_a_size_counts_only_where_it_is_said() -> None:
    for size, radius in RADII.items():
        image = draw_things((place(RED_CIRCLE, radius=radius),))
        assert verdict(image, Scene(Thing("circle", "red"))) == RIGHT
        right = {said for said in SIZES if judge(image, Scene(Thing("circle", "red", said))).right}
        assert right == {size}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_blends_of_two_pictures_are_wrong(share: float) -> None:
    right = num = 0
    for (_, one), (_, other) in pairwise(pictures(None, num=140, seed=4)):
        if {thing.colour for thing in one.scene.things}.isdisjoint(thing.colour for thing in other.scene.things):
            blend = Image.blend(one.draw(), other.draw(), share)
            right += judge(blend, one.scene).right + judge(blend, other.scene).right
            num += 2
    assert num > 100
    assert right <= num / 100, "a ghost that hides behind a thing of its size can pass"


@pytest.mark.parametrize("colour", [*PALETTE.values(), (160, 160, 160), (0, 200, 200)])
@pytest.mark.parametrize("at", [(4, 4), (44, 32), (32, 45), (62, 62), (27, 5)])
def test_another_blob_makes_a_picture_wrong(colour: tuple[int, int, int], at: tuple[int, int]) -> None:
    image = draw_things((place(BLUE_STAR),))
    image.paste(colour, (at[0], at[1], at[0] + 2, at[1] + 2))
    assert judge(image, Scene(BLUE_STAR)).reason == "4 stray pixels"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [9, 12])
def test_a_lump_or_a_bite_makes_a_thing_ragged(shape: Shape, radius: float) -> None:
    scene = Scene(Thing(shape, "green"))
    lump = draw_things((place(scene.first, radius=radius), place(Thing("square", "green"), x=32 + radius, radius=4)))
    bite = draw_things((place(scene.first, radius=radius),))
    ImageDraw.Draw(bite).rectangle((30, 31, 33, 34), fill=GROUND)
    assert judge(lump, scene).reason.startswith("ragged")
    assert judge(bite, scene).reason.startswith("ragged")


@pytest.mark.parametrize("distance", [10, 14])
def test_overlapping_things_are_wrong(distance: float) -> None:
    for first in (RED_CIRCLE, RED_STAR, BLUE_STAR):
        second = Thing("square", "red", "medium")
        image = draw_things((place(first, x=32 - distance / 2), place(second, x=32 + distance / 2, radius=10)))
        assert not judge(image, Scene(first, second=second)).right
        assert not judge(image, Scene(first)).right
        assert not judge(image, Scene(second)).right


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", ["orange", "blue", "black", "pink"])
def test_a_half_coloured_thing_is_wrong(shape: Shape, other: Colour) -> None:
    image = draw_things((place(Thing(shape, "red")),))
    image.paste(draw_things((place(Thing(shape, other)),)).crop((0, 0, SIDE, 32)), (0, 0))
    for colour in ("red", other):
        judged = judge(image, Scene(Thing(shape, colour)))
        assert judged.reason.startswith("a thing of two colours, one of them "), judged


@pytest.mark.parametrize("rgb", [(130, 80, 40), (0, 200, 200), (120, 120, 120), (250, 180, 30), (230, 140, 140)])
def test_a_colour_off_the_palette_is_wrong(rgb: tuple[int, int, int]) -> None:
    image = draw_things((place(Thing("square", "black")),))
    pixels = np.asarray(image, dtype=float)
    covered = (pixels - GROUND) / (np.array(PALETTE["black"]) - GROUND)
    recoloured = Image.fromarray((np.array(GROUND) + covered * (np.array(rgb) - GROUND)).round().astype(np.uint8))
    assert not any(judge(recoloured, Scene(Thing("square", colour))).right for colour in COLOURS)


@pytest.mark.parametrize(
    "outline",
    [
        [(0, -1), (1, 0), (0, 1), (-1, 0)],
        [(x, -y) for x, y in OUTLINES["triangle"]],
        [(x, -y) for x, y in OUTLINES["heart"]],
        [(x, -y) for x, y in OUTLINES["star"]],
        [(0.7 * (x - y), 0.7 * (x + y)) for x, y in OUTLINES["cross"]],
        [(x, 0.7 * y) for x, y in OUTLINES["square"]],
        [(x, 0.7 * y) for x, y in OUTLINES["circle"]],
        [(x, y) for x, y in OUTLINES["circle"] if y <= 0],
        [(-1, -1), (1, 1), (-1, 1)],
    ],
)
@pytest.mark.parametrize("radius", [9, 12])
def test_other_outlines_are_no_things(outline: list[tuple[float, float]], radius: float) -> None:
    large = Image.new("RGB", (8 * SIDE, 8 * SIDE), GROUND)
    points = [(8 * (32 + radius * x), 8 * (32 + radius * y)) for x, y in outline]
    ImageDraw.Draw(large).polygon(points, fill=PALETTE["blue"])
    assert read_picture(large)[0] == []
    assert judge(large, Scene(Thing("circle", "blue"))).reason.startswith("ragged: no shape fits better than 0.")


@pytest.mark.parametrize("mode", ["ground", "red", "noise", "stripes"])
def test_pictures_of_nothing_are_wrong(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(SIDE, SIDE, 3)).astype(np.uint8)
    stripes = np.where(np.arange(SIDE)[:, None, None] % 8 < 2, PALETTE["blue"], GROUND) + np.zeros((1, SIDE, 1))
    image = {
        "ground": draw_things(()),
        "red": Image.new("RGB", (SIDE, SIDE), PALETTE["red"]),
        "noise": Image.fromarray(noise),
        "stripes": Image.fromarray(stripes.astype(np.uint8)),
    }[mode]
    assert read_picture(image)[0] == []
    assert not any(judge(image, scene).right for scene, _ in pictures(None, num=20))
