"""Reads a picture pixel by pixel: which things it shows, and whether they match a scene.

Invariants: nothing is learnt, so a verdict is the same on every machine; a picture is right only if each visible pixel
belongs to the background or to a thing of one plain colour and a known outline. The thresholds allow for what an image
decoder does to a correct drawing: soft edges, a contour off by half a pixel, colours off by about 10 of 255.

Shape suffixes: Y rows and X columns of the picture, C colour channels, V visible pixels, P colours of the palette.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from x2i_platform.mini.drawing import GROUND, PALETTE, RADII, SIDE, Placed, draw_things
from x2i_platform.mini.scenes import SIZES, Colour, Relation, Scene, Shape, Size, Thing
from x2i_platform.mini.templates import EVERY_SIDE, STEPS, WINDOW, Floats, best_fit, crisp, flaw_of

Bools = NDArray[np.bool_]

COLOUR_TOLERANCE = 35.0
"""Largest distance in RGB from a palette colour. The two nearest colours, orange and yellow, are 77 apart."""
VISIBLE = 40.0
"""A pixel whose colour is farther than this from the background, in RGB, shows something."""
NEGLIGIBLE_PIXELS = 3
LEAST_PLAIN_GROUND = 0.4
"""Smallest share of the picture that must be background; four large squares leave 0.54."""
LEAST_THING_PIXELS = 15  # a small star has some 45
MOST_OFF_COLOUR = 0.1
"""Share of a thing's inner pixels that may have another colour than the thing."""
RELATION_MARGIN = 1.5
"""Two things are side by side if their distance along x is at least this many times their distance along y."""

EDGE = 3
"""Width of a thing's soft edge in pixels."""
GROUND_C = np.array(GROUND, dtype=np.float32)
PALETTE_PC = np.array(list(PALETTE.values()), dtype=np.float32)


@dataclass(frozen=True)
class Detection:
    """A thing seen in a picture; centre and radius in pixels of a 64-pixel square."""

    shape: Shape
    colour: Colour
    size: Size
    x: float
    y: float
    radius: float
    fit: float
    """Soft intersection over union with the best template: 1 is a perfect match."""


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows a scene, and if not, why in one phrase."""

    right: bool
    reason: str = ""


def judge(image: Image.Image, scene: Scene) -> Verdict:
    """Whether a picture of any size shows everything that a scene says, and nothing else.

    Colours, shapes, count and relation must be right; a size must be right only if the scene gives one.
    """
    seen, flaws = read_picture(image)
    reason = flaws[0] if flaws else _difference(seen, scene)
    return Verdict(not reason, reason)


def _difference(seen: list[Detection], scene: Scene) -> str:
    """The first difference as a phrase; empty if there is none."""
    said = scene.things
    if len(seen) != len(said):
        return f"{len(seen)} thing{'' if len(seen) == 1 else 's'}, not {len(said)}"
    # Shapes tell which thing is meant: in a scene of two they differ.
    order = min(permutations(seen), key=lambda order: [a.shape != b.shape for a, b in zip(order, said, strict=True)])
    mismatch = next(filter(None, map(_mismatch, order, said)), "")
    if mismatch or scene.relation in (None, _relation(order[0], order[-1])):
        return mismatch
    return f"not {scene.relation}"


def _mismatch(seen: Detection, said: Thing) -> str:
    if seen.shape != said.shape:
        return f"{_phrase(seen.colour, seen.shape)}, not {_phrase(said.colour, said.shape)}"
    if seen.colour != said.colour:
        return f"{_phrase(seen.colour, seen.shape)}, not {_phrase(said.colour, 'one')}"
    if said.size and seen.size != said.size:
        return f"{_phrase(seen.size, seen.colour, seen.shape)}, not {_phrase(said.size, 'one')}"
    return ""


def _phrase(*words: str) -> str:
    return f"{'an' if words[0] == 'orange' else 'a'} {' '.join(words)}"


def _relation(first: Detection, second: Detection) -> Relation | None:
    """Position of the first relative to the second; None if their distances along x and y are about equal."""
    x, y = first.x - second.x, first.y - second.y
    if abs(x) > RELATION_MARGIN * abs(y):
        return "left of" if x < 0 else "right of"
    if abs(y) > RELATION_MARGIN * abs(x):
        return "above" if y < 0 else "below"
    return None


def read_picture(image: Image.Image) -> tuple[list[Detection], list[str]]:
    """Things in a picture, and a phrase for everything else that is visible in it."""
    # Which pixels differ from the background? Its colour is measured, as a decoder may shift it.
    pixels_YXC = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    plain_YX = np.linalg.norm(pixels_YXC - GROUND_C, axis=-1) < VISIBLE
    if plain_YX.mean() < LEAST_PLAIN_GROUND:
        return [], ["no plain ground"]
    ground_C = np.median(pixels_YXC[plain_YX], axis=0)
    offsets_YXC = pixels_YXC - ground_C
    visible_YX = np.linalg.norm(offsets_YXC, axis=-1) > VISIBLE
    # Connected pixels that a thing covers by more than half are a piece; small pieces are noise.
    is_thing_YX = visible_YX.copy()
    is_thing_YX[visible_YX] = _is_thing(offsets_YXC[visible_YX], ground_C)
    pieces_YX, count = ndimage.label(is_thing_YX, structure=EVERY_SIDE)
    is_large = np.bincount(pieces_YX.ravel(), minlength=count + 1) >= LEAST_THING_PIXELS
    is_large[0] = False  # the ground
    # A piece also owns its soft edge: pixels within EDGE of it, each given to the nearest piece.
    reach_YX, (rows_YX, columns_YX) = ndimage.distance_transform_edt(~is_large[pieces_YX], return_indices=True)
    owners_YX = np.where(reach_YX <= EDGE, pieces_YX[rows_YX, columns_YX], 0)
    found = [
        _identify(offsets_YXC, ground_C, owned_YX=owners_YX == number, is_thing_YX=is_thing_YX)
        for number in np.flatnonzero(is_large)
    ]
    # Draw what was found: visible pixels that the drawing doesn't explain are strays.
    things = [each for each in found if isinstance(each, Detection)]
    placed = tuple(Placed(Thing(each.shape, each.colour), each.x, each.y, each.radius) for each in things)
    is_drawn_YX = (np.asarray(draw_things(placed)) != GROUND).any(axis=-1)
    # 2 pixels around a thing may be soft. A small piece is a flaw, however near to a thing it lies.
    stray_YX = visible_YX & ~ndimage.binary_dilation(is_drawn_YX, iterations=2) | is_thing_YX & (reach_YX > 0)
    strays = [f"{num} stray pixels"] if (num := stray_YX.sum()) > NEGLIGIBLE_PIXELS else []
    return things, [each for each in found if isinstance(each, str)] + strays


def _is_thing(offsets_VC: Floats, ground_C: Floats) -> Bools:
    """Which pixels a thing covers by more than half."""
    # Antialiased pixels lie between the background and a colour: find the nearest such line, and the share along it.
    ways_PC = PALETTE_PC - ground_C
    lengths_P = np.square(ways_PC).sum(axis=1)
    shares_VP = np.clip(offsets_VC @ ways_PC.T / lengths_P, 0, 1)
    misses_VP = np.linalg.norm(offsets_VC[:, None] - shares_VP[..., None] * ways_PC, axis=-1)
    return np.take_along_axis(shares_VP, misses_VP.argmin(axis=1)[:, None], axis=1)[:, 0] > 0.5


def _identify(offsets_YXC: Floats, ground_C: Floats, *, owned_YX: Bools, is_thing_YX: Bools) -> Detection | str:
    """The thing that a connected piece of the picture shows, or a phrase that says why it shows none."""
    box = ndimage.find_objects(owned_YX.astype(int))[0]
    offsets_YXC, owned_YX = offsets_YXC[box], owned_YX[box]
    piece_YX = owned_YX & is_thing_YX[box]
    # Its colour, from pixels away from the edge.
    inner_YX = ndimage.binary_erosion(piece_YX, structure=EVERY_SIDE)
    inner_YX = inner_YX if inner_YX.sum() >= 5 else piece_YX
    colour, colour_C = _colour(offsets_YXC[inner_YX] + ground_C)
    if math.dist(colour_C, PALETTE[colour]) > COLOUR_TOLERANCE:
        return "a thing of no known colour: RGB {:.0f} {:.0f} {:.0f}".format(*colour_C)
    # Coverage of each pixel from 0 to 1, and its distance from the line between background and colour.
    way_C = colour_C - ground_C
    soft_YX: Floats = np.clip(offsets_YXC @ way_C / (way_C @ way_C), 0, 1)
    misses_YX = np.linalg.norm(offsets_YXC - soft_YX[..., None] * way_C, axis=-1)
    is_other_YX = inner_YX & (misses_YX > COLOUR_TOLERANCE)
    if is_other_YX.sum() > MOST_OFF_COLOUR * inner_YX.sum():
        return f"a thing of two colours, one of them {colour}"
    # Its shape, place and size: the best fit of all templates to the coverage.
    padded_YX = np.zeros((SIDE + 2 * WINDOW, SIDE + 2 * WINDOW), dtype=np.float32)
    padded_YX[WINDOW:-WINDOW, WINDOW:-WINDOW][box] = crisp(np.where(owned_YX & ~is_other_YX, soft_YX, np.float32(0)))
    fit = best_fit(padded_YX)
    if flaw := flaw_of(padded_YX, fit):
        return flaw
    x, y, radius = fit.x / STEPS, fit.y / STEPS, fit.radius / STEPS
    size = min(SIZES, key=lambda size: abs(RADII[size] - radius))
    return Detection(fit.shape, colour, size, x, y, radius, fit=fit.overlap)


def _colour(pixels_VC: Floats) -> tuple[Colour, Floats]:
    """The palette colour nearest to most pixels, and the median colour of those pixels."""
    nearest_V = np.linalg.norm(pixels_VC[:, None] - PALETTE_PC, axis=-1).argmin(axis=1)
    winner = int(np.bincount(nearest_V).argmax())
    return tuple(PALETTE)[winner], np.median(pixels_VC[nearest_V == winner], axis=0)
