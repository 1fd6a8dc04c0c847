"""How a picture is cut: an overview, and slices of it in a grid if it has many pixels.

The rules are the released ones (`image_processing_minicpmv.py`), with their rounding: Python's, to even. Sizes are
`(width, height)` in pixels, grids `(columns, rows)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True)
class Slicing:
    """The settings of the cut."""

    max_slices: int
    resolution: int
    """Side of the square that has as many pixels as an overview or a slice."""
    patch: int

    def grid(self, size: Size) -> Size | None:
        """Return the grid whose shape is nearest to the picture's; None if the overview alone is enough."""
        width, height = size
        squares = min(math.ceil(width * height / self.resolution**2), self.max_slices)
        if squares <= 1:
            return None
        counts = [count for count in (squares - 1, squares, squares + 1) if 1 < count <= self.max_slices]
        grids = [(columns, count // columns) for count in counts for columns in _divisors(count)]
        shape = math.log(width / height)
        return min(grids, key=lambda grid: abs(shape - math.log(grid[0] / grid[1])))

    def overview(self, size: Size) -> Size:
        """Return the size of the overview. A small picture is enlarged."""
        return self._in_patches(self._at_resolution(size))

    def sheet(self, size: Size, grid: Size) -> Size:
        """Return the size to which the picture is brought to be cut into equal slices."""
        cell = [_multiple(side, count) / count for side, count in zip(size, grid, strict=True)]
        width, height = self._in_patches(self._at_resolution((cell[0], cell[1])))
        return width * grid[0], height * grid[1]

    def _at_resolution(self, size: tuple[float, float]) -> Size:
        """Return a size of the same shape, with about as many pixels as the square."""
        shape = size[0] / size[1]
        height = int(self.resolution / math.sqrt(shape))
        return int(height * shape), height

    def _in_patches(self, size: Size) -> Size:
        return _multiple(size[0], self.patch), _multiple(size[1], self.patch)


def _divisors(count: int) -> list[int]:
    return [columns for columns in range(1, count + 1) if count % columns == 0]


def _multiple(length: int, of: int) -> int:
    """Return the multiple of `of` that is nearest to a length, and not 0."""
    return max(round(length / of) * of, of)
