"""Templates of the shapes, fitted to a piece of a picture in steps of a quarter of a pixel.

Shape suffixes: Y rows and X columns of the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from x2i_platform.mini.drawing import OUTLINES, OVERSAMPLING, SIDE
from x2i_platform.mini.scenes import SHAPES, Shape

Floats = NDArray[np.float32]
EVERY_SIDE = np.ones((3, 3), dtype=bool)

RADIUS_RANGE = (4.5, 15.0)
LEAST_FIT = 0.75
"""Smallest overlap with a template. A small star with its contour off by half a pixel reaches 0.75, one from a JPEG
of quality 90 reaches 0.81."""
MOST_OFF_CONTOUR = 0.45
"""Largest mean deviation along the contour, in pixels. JPEG costs up to 0.27; a medium or large diamond differs from
a circle by 0.6 or more."""
STEPS = OVERSAMPLING
"""Templates are placed and sized in steps of a quarter of a pixel, which is one pixel of the oversampled drawing."""
WINDOW = 36
"""Side of a template in pixels: room for the largest thing and its soft edge."""
CONTENTION = 0.1
"""Shapes whose first overlap is lower than the best one's by more than this are not placed more finely."""
MOST_STEPS = 12
ONE_STEP = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
PADDED_CENTRES = np.arange(-WINDOW, SIDE + WINDOW, dtype=np.float32) + 0.5


@dataclass(frozen=True, order=True)
class Fit:
    """How well a shape covers a piece of a picture; the placing in steps of a quarter of a pixel."""

    overlap: float
    shape: Shape
    x: int
    y: int
    radius: int


def crisp(soft_YX: Floats) -> Floats:
    """Make edges half as wide around the same contour, so that a fit measures the contour and not its softness."""
    crisp_YX: Floats = np.clip(2 * soft_YX - np.float32(0.5), 0, 1)
    return crisp_YX


def best_fit(padded_YX: Floats) -> Fit:
    """The shape that covers a piece best. Shapes are placed by the piece's mass and centre, then moved uphill."""
    mass, x, y = _moments(padded_YX, PADDED_CENTRES)
    placed = []
    for shape in SHAPES:
        # Equal area gives the radius, equal centre of mass the place.
        unit_mass, unit_x, unit_y = _unit_moments(shape)
        radius = math.sqrt(mass / unit_mass)
        where = (x - radius * unit_x, y - radius * unit_y, radius)
        placed.append(_fit(padded_YX, mass, shape, *(round(each * STEPS) for each in where)))
    least = max(placed).overlap - CONTENTION
    return max(_climb(padded_YX, mass, fit) for fit in placed if fit.overlap >= least)


def _climb(padded_YX: Floats, mass: float, fit: Fit) -> Fit:
    """Move and resize a shape in steps of a quarter of a pixel while its overlap grows; a few steps are enough."""
    for _ in range(MOST_STEPS):
        around = [(fit.x + x, fit.y + y, fit.radius + radius) for x, y, radius in ONE_STEP]
        best = max(_fit(padded_YX, mass, fit.shape, *each) for each in around)
        if best.overlap <= fit.overlap:
            break
        fit = best
    return fit


def _fit(padded_YX: Floats, mass: float, shape: Shape, x: int, y: int, radius: int) -> Fit:
    """Soft intersection over union of a piece with a placed shape."""
    window_YX, template_YX, template_mass = _overlay(padded_YX, shape, x, y, radius)
    shared = float(np.minimum(window_YX, template_YX).sum())
    return Fit(shared / (mass + template_mass - shared), shape, x, y, radius)


def flaw_of(padded_YX: Floats, fit: Fit) -> str:
    """Why a piece is not a thing although this is its best fit; empty if it is one."""
    radius = fit.radius / STEPS
    window_YX, template_YX, _ = _overlay(padded_YX, fit.shape, fit.x, fit.y, fit.radius)
    wrong_YX = np.abs(window_YX - template_YX)
    outline = [*OUTLINES[fit.shape], OUTLINES[fit.shape][0]]
    contour = radius * sum(math.dist(*side) for side in pairwise(outline))
    if fit.overlap < LEAST_FIT or wrong_YX.sum() > MOST_OFF_CONTOUR * contour:
        return f"ragged: no shape fits better than {fit.overlap:.2f}"
    if ndimage.binary_erosion(wrong_YX > 0.5, structure=EVERY_SIDE).any():
        return f"ragged: a {fit.shape} with a lump or a bite of 3 x 3 pixels"
    if not RADIUS_RANGE[0] <= radius <= RADIUS_RANGE[1]:
        return f"a {fit.shape} of no known size: radius {radius:.1f}"
    return ""


def _overlay(padded_YX: Floats, shape: Shape, x: int, y: int, radius: int) -> tuple[Floats, Floats, float]:
    """The part of a picture around a placed shape, the shape itself, and its mass."""
    row, column = y // STEPS + WINDOW // 2, x // STEPS + WINDOW // 2
    return padded_YX[row : row + WINDOW, column : column + WINDOW], *_template(shape, radius, x % STEPS, y % STEPS)


@lru_cache(maxsize=8192)
def _template(shape: Shape, radius: int, x: int, y: int) -> tuple[Floats, float]:
    """Coverage of each pixel by a shape, and the sum. Its centre is `x`, `y` steps from the middle of the window."""
    side = WINDOW * STEPS
    points = [(side / 2 + x + radius * px, side / 2 + y + radius * py) for px, py in OUTLINES[shape]]
    large = Image.new("L", (side, side))
    ImageDraw.Draw(large).polygon(points, fill=255)
    small_YX = np.asarray(large.resize((WINDOW, WINDOW), Image.Resampling.BOX), dtype=np.float32)
    template_YX = crisp(small_YX / np.float32(255))
    return template_YX, float(template_YX.sum())


@lru_cache
def _unit_moments(shape: Shape) -> tuple[float, float, float]:
    """Area and centre of mass of a shape of radius 1."""
    template_YX, _ = _template(shape, 12 * STEPS, 0, 0)
    mass, x, y = _moments(template_YX, np.arange(WINDOW, dtype=np.float32) + 0.5 - WINDOW / 2)
    return mass / 12**2, x / 12, y / 12


def _moments(soft_YX: Floats, centres: Floats) -> tuple[float, float, float]:
    """Mass and centre of mass; `centres` are the places of rows and of columns."""
    mass = float(soft_YX.sum())
    return mass, float(soft_YX.sum(axis=0) @ centres) / mass, float(soft_YX.sum(axis=1) @ centres) / mass
