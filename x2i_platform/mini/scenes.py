"""The scenes of the miniature world, and the combinations that are held out from training.

A `Scene` is the meaning of a caption; a `Picture` (see `drawing`) is one way to show it. Invariants: a scene and a
picture are pure functions of their seeds; a scene and its converse are both held out or neither, so no training picture
shows a held-out combination under another name.
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
"""8 of the 60 arrangements of two different shapes, each given in one of its two directions."""


@dataclass(frozen=True)
class Thing:
    """A coloured shape. `size` is None if it is left open."""

    shape: Shape
    colour: Colour
    size: Size | None = None


@dataclass(frozen=True)
class Scene:
    """`count` equal things, or two different ones.

    Two things without a relation mean "and": side by side or one above the other, in any order.
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
        """The category, as in GenEval. `single` gives the size too, `colour` leaves it open."""
        if self.second is not None:
            return "position" if self.relation else "binding"
        if self.count > 1:
            return "count"
        return "single" if self.first.size else "colour"

    @property
    def things(self) -> tuple[Thing, ...]:
        """All visible things: a count repeats its thing."""
        return (self.first, self.second) if self.second else (self.first,) * self.count

    @property
    def is_held_out(self) -> bool:
        """Whether the scene has a combination that is held out from training."""
        return any((thing.colour, thing.shape) in HELD_OUT_COLOURS for thing in self.things) or (
            self.second is not None
            and self.relation is not None
            and is_relation_held_out(self.first.shape, self.relation, self.second.shape)
        )

    def converse(self) -> Scene:
        """Return the same scene, described from the second thing. Only for two things."""
        assert self.second is not None
        return Scene(self.second, relation=self.relation and CONVERSE[self.relation], second=self.first)


def canonical(scene: Scene) -> Scene:
    """Return the canonical form of equivalent scenes: `left of` or `above`, and for "and" the order of `SHAPES`."""
    if scene.second is None:
        return scene
    if scene.relation is None:
        is_converse = SHAPES.index(scene.first.shape) > SHAPES.index(scene.second.shape)
    else:
        is_converse = scene.relation in ("right of", "below")
    return scene.converse() if is_converse else scene


def is_relation_held_out(first: Shape, relation: Relation, second: Shape) -> bool:
    """Return whether an arrangement of two shapes is held out, in either direction."""
    return (first, relation, second) in HELD_OUT_RELATIONS or (second, CONVERSE[relation], first) in HELD_OUT_RELATIONS


def composition(scene: Scene) -> Composition:
    """Classify what is novel in a held-out scene, in MOSAIC's terms.

    A held-out colour and shape shown several times is a novel count. A held-out arrangement of two shapes is a novel
    relation, whatever their colours. Everything else is a novel pair.
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
    """Yield endless random scenes of one category or of all, either held out or allowed in training.

    Without a category, all have about equal shares; one that is often on the other side of the split comes less often.

    `sized` says whether things have a size. None draws that in `count`, `position` and `binding`, for both things
    alike; True describes a picture in full. The same arguments give the same scenes.
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
    # In half of the held-out positions draw a held-out relation. By chance they would be the smaller part.
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
