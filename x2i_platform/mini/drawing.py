"""Draws scenes: places things, chooses their sizes and draws them antialiased on a plain ground.

Coordinates are pixels of a 64-pixel square, x to the right, y down. Invariants: things never overlap; a picture of a
scene that is allowed in training never shows a held-out combination, for "and" too.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from x2i_platform.mini.scenes import RELATIONS, SIZES, Colour, Relation, Scene, Shape, Size, Thing, is_relation_held_out

SIDE = 64
GROUND = (240, 240, 234)
PALETTE: dict[Colour, tuple[int, int, int]] = {
    "red": (214, 36, 36),
    "orange": (250, 140, 20),
    "yellow": (246, 214, 40),
    "green": (36, 150, 60),
    "blue": (36, 84, 214),
    "purple": (136, 50, 166),
    "pink": (244, 130, 190),
    "black": (28, 28, 28),
}
RADII: dict[Size, float] = {"small": 6.0, "medium": 9.0, "large": 12.0}
"""Half the side of a shape's box."""
PLACE_JITTER = 2.0
RADIUS_JITTER = 0.03
OVERSAMPLING = 4

NEAR, MIDDLE, FAR = SIDE / 4, SIDE / 2, 3 * SIDE / 4
PLACES: dict[Relation, tuple[tuple[float, float], tuple[float, float]]] = {
    "left of": ((NEAR, MIDDLE), (FAR, MIDDLE)),
    "right of": ((FAR, MIDDLE), (NEAR, MIDDLE)),
    "above": ((MIDDLE, NEAR), (MIDDLE, FAR)),
    "below": ((MIDDLE, FAR), (MIDDLE, NEAR)),
}
COUNT_PLACES = {
    1: ((MIDDLE, MIDDLE),),
    2: PLACES["left of"],
    3: ((NEAR, NEAR), (FAR, NEAR), (MIDDLE, FAR)),
    4: ((NEAR, NEAR), (FAR, NEAR), (NEAR, FAR), (FAR, FAR)),
}


@dataclass(frozen=True)
class Placed:
    """A thing with its centre and radius in pixels. Its `size` is always set in a `Picture`."""

    thing: Thing
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Picture:
    """One way to show a scene."""

    scene: Scene
    """The complete scene, with the sizes and the relation that the caption left open."""
    placed: tuple[Placed, ...]

    def draw(self) -> Image.Image:
        """Draw the picture: RGB, 64 x 64 pixels, antialiased."""
        return draw_things(self.placed)


def picture(scene: Scene, *, seed: int) -> Picture:
    """Return one way to show a scene. The seed decides what the caption leaves open, and the jitter."""
    draw = random.Random(f"picture {scene} {seed}")
    shown = _in_full(scene, draw=draw)
    centres = PLACES[shown.relation] if shown.relation else COUNT_PLACES[shown.count]
    scale = _radius_scale(draw) if shown.count > 1 else None
    placed = tuple(
        Placed(
            thing,
            x=x + draw.uniform(-PLACE_JITTER, PLACE_JITTER),
            y=y + draw.uniform(-PLACE_JITTER, PLACE_JITTER),
            radius=RADII[thing.size or "medium"] * (scale or _radius_scale(draw)),
        )
        for thing, (x, y) in zip(shown.things, centres, strict=True)
    )
    return Picture(shown, placed)


def draw_things(placed: tuple[Placed, ...]) -> Image.Image:
    """Draw things on the plain ground, later ones over earlier ones."""
    large = Image.new("RGB", (SIDE * OVERSAMPLING, SIDE * OVERSAMPLING), GROUND)
    pen = ImageDraw.Draw(large)
    for each in placed:
        points = [
            ((each.x + each.radius * x) * OVERSAMPLING, (each.y + each.radius * y) * OVERSAMPLING)
            for x, y in OUTLINES[each.thing.shape]
        ]
        pen.polygon(points, fill=PALETTE[each.thing.colour])
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def _in_full(scene: Scene, *, draw: random.Random) -> Scene:
    """Draw the sizes and the relation that the scene leaves open. A drawn relation is never held out."""
    size = draw.choice(SIZES)
    first, second = (
        thing and Thing(thing.shape, thing.colour, thing.size or size) for thing in (scene.first, scene.second)
    )
    assert first is not None
    if second is None:
        return Scene(first, count=scene.count)
    held_out = [r for r in RELATIONS if is_relation_held_out(first.shape, r, second.shape)]
    relation = scene.relation or draw.choice([r for r in RELATIONS if r not in held_out])
    return Scene(first, relation=relation, second=second)


def _radius_scale(draw: random.Random) -> float:
    return draw.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)


def _ring(*radii: float, points: int, start: float = -math.pi / 2) -> list[tuple[float, float]]:
    """Return points around the centre, whose distances alternate between `radii`."""
    angles = [start + 2 * math.pi * i / points for i in range(points)]
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a)) for i, a in enumerate(angles)]


def _heart() -> list[tuple[float, float]]:
    """Return the curve x = 16 sin³ t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, scaled into the unit box."""
    steps = [2 * math.pi * i / 48 for i in range(48)]
    curve = [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in steps
    ]
    middle = (min(y for _, y in curve) + max(y for _, y in curve)) / 2
    return [(x, y - middle) for x, y in curve]


ARM = 0.36
OUTLINES: dict[Shape, list[tuple[float, float]]] = {
    "circle": _ring(1.0, points=48),
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": [(x, y + 0.08) for x, y in _ring(1.08, 0.45, points=10)],
    "heart": _heart(),
    "cross": [
        *((-ARM, -1.0), (ARM, -1.0), (ARM, -ARM), (1.0, -ARM), (1.0, ARM), (ARM, ARM)),
        *((ARM, 1.0), (-ARM, 1.0), (-ARM, ARM), (-1.0, ARM), (-1.0, -ARM), (-ARM, -ARM)),
    ],
}
"""Each shape's polygon, in a box from -1 to 1."""
