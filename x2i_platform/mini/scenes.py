"""The scenes of the miniature world: what can be said in it, and which combinations training never sees.

A `Scene` is what a caption says; a `Picture` (see `drawing`) is one way to show it. Invariants: scenes and pictures are
pure functions of their seeds; if a relation is held out, so is its converse, so that no training picture shows a
held-out combination under another name.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "star", "heart", "cross"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "black"]
Size = Literal["small", "medium", "large"]
Relation = Literal["left of", "right of", "above", "below"]
Category = Literal["single", "colour", "count", "position", "binding"]
Composition = Literal["novel pair", "novel relation", "novel count"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
CATEGORIES: tuple[Category, ...] = get_args(Category)
COUNTS = (2, 3, 4)
CONVERSE: dict[Relation, Relation] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT_COLOURS: frozenset[tuple[Colour, Shape]] = frozenset(
    {
        ("purple", "circle"),
        ("yellow", "square"),
        ("blue", "triangle"),
        ("green", "star"),
        ("orange", "heart"),
        ("red", "cross"),
    }
)
"""6 of the 48 combinations of colour and shape."""

HELD_OUT_RELATIONS: frozenset[tuple[Shape, Relation, Shape]] = frozenset(
    {
        ("circle", "left of", "heart"),
        ("square", "left of", "star"),
        ("triangle", "left of", "cross"),
        ("star", "left of", "circle"),
        ("heart", "above", "square"),
        ("cross", "above", "circle"),
        ("triangle", "above", "star"),
        ("circle", "above", "triangle"),
    }
)
"""8 of the 60 arrangements of two different shapes, each under one of its two names."""


@dataclass(frozen=True)
class Thing:
    """A coloured shape; its size is None if it is not given."""

    shape: Shape
    colour: Colour
    size: Size | None = None


@dataclass(frozen=True)
class Scene:
    """Several equal things, or one thing, or two different ones.

    Two things without a relation are joined by "and": they are side by side or one above the other, in either order.
    """

    first: Thing
    count: int = 1
    relation: Relation | None = None
    second: Thing | None = None

    def __post_init__(self) -> None:
        assert self.count in (1, *COUNTS) and (self.count == 1 or self.second is None)
        assert self.relation is None or self.second is not None
        assert self.second is None or self.first.shape != self.second.shape, "two things of one shape are a count"

    @property
    def category(self) -> Category:
        """The category that GenEval would give the prompt; `single` gives a size, `colour` does not."""
        if self.second is not None:
            return "position" if self.relation else "binding"
        if self.count > 1:
            return "count"
        return "single" if self.first.size else "colour"

    @property
    def things(self) -> tuple[Thing, ...]:
        """Every visible thing; a count repeats its thing."""
        return (self.first, self.second) if self.second else (self.first,) * self.count

    @property
    def is_held_out(self) -> bool:
        """Whether it holds a combination that training never shows."""
        return any((thing.colour, thing.shape) in HELD_OUT_COLOURS for thing in self.things) or (
            self.second is not None
            and self.relation is not None
            and is_relation_held_out(self.first.shape, self.relation, self.second.shape)
        )

    def converse(self) -> Scene:
        """The same scene described from its second thing; only for scenes of two things."""
        assert self.second is not None
        return Scene(self.second, relation=self.relation and CONVERSE[self.relation], second=self.first)


def plainest(scene: Scene) -> Scene:
    """The standard form of a scene: relations are `left of` or `above`, and "and" follows the order of `SHAPES`."""
    if scene.second is None:
        return scene
    if scene.relation is None:
        turned = SHAPES.index(scene.first.shape) > SHAPES.index(scene.second.shape)
    else:
        turned = scene.relation in ("right of", "below")
    return scene.converse() if turned else scene


def is_relation_held_out(first: Shape, relation: Relation, second: Shape) -> bool:
    """Whether an arrangement or its converse is held out."""
    return (first, relation, second) in HELD_OUT_RELATIONS or (second, CONVERSE[relation], first) in HELD_OUT_RELATIONS


def composition(scene: Scene) -> Composition:
    """What is new in a held-out scene, in MOSAIC's terms.

    A new arrangement of two shapes comes first, whatever their colours; then a new colour and shape shown several times
    is a novel count, and any other a novel pair.
    """
    assert scene.is_held_out
    if scene.count > 1:
        return "novel count"
    if scene.second and scene.relation and is_relation_held_out(scene.first.shape, scene.relation, scene.second.shape):
        return "novel relation"
    return "novel pair"


def scenes(
    category: Category | None = None, *, held_out: bool, seed: int, sized: bool | None = None
) -> Iterator[Scene]:
    """An endless stream of scenes, of one category or of all; either held-out ones or ones that training may see.

    With all categories their shares are about equal; a category is rarer if more of its scenes are on the other side of
    the split.

    `sized` says whether things have a size: None leaves it to chance in `count`, `position` and `binding` (both things
    or neither), and True is a full description of a picture. The same arguments give the same scenes.
    """
    draw = random.Random(f"scenes {category} {held_out} {seed} {sized}")
    while True:
        chosen = draw.choice(CATEGORIES) if category is None else category
        scene = _draw_scene(draw, category=chosen, held_out=held_out, sized=sized)
        if scene.is_held_out == held_out:
            yield scene


def _draw_scene(draw: random.Random, *, category: Category, held_out: bool, sized: bool | None) -> Scene:
    with_size = {"single": True, "colour": False}.get(category, draw.random() < 0.5) if sized is None else sized
    first_shape, second_shape = draw.sample(SHAPES, 2)
    relation = draw.choice(RELATIONS) if category == "position" else None
    # Half of the held-out arrangements show a held-out relation; drawn at random they would be far fewer.
    if held_out and category == "position" and draw.random() < 0.5:
        first_shape, relation, second_shape = draw.choice(sorted(HELD_OUT_RELATIONS))
        if draw.random() < 0.5:
            first_shape, relation, second_shape = second_shape, CONVERSE[relation], first_shape
    first, second = (
        Thing(shape, draw.choice(COLOURS), draw.choice(SIZES) if with_size else None)
        for shape in (first_shape, second_shape)
    )
    if category in ("position", "binding"):
        return Scene(first, relation=relation, second=second)
    return Scene(first, count=draw.choice(COUNTS) if category == "count" else 1)
