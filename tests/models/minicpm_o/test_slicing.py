"""Sizes worked out by hand from the rules in the released `image_processing_minicpmv.py`."""

from __future__ import annotations

import pytest

from x2i_platform.models.minicpm_o.slicing import Slicing

RELEASED = Slicing(max_slices=9, resolution=448, patch=14)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((448, 448), None),  # one square
        ((100, 30), None),
        # 450 * 448 / 448**2 = 1.004, so 2 squares; 1 isn't a grid, so 2 and 3 are tried: 1x2, 2x1, 1x3 and 3x1.
        # log(450 / 448) = 0.004 is nearest to log(1 / 2) = -0.693 and log(2) = 0.693; by 0.009 to the latter.
        ((450, 448), (2, 1)),
        # 800 * 600 / 448**2 = 2.39, so 3: grids of 2, 3 and 4. log(4 / 3) = 0.288 is nearest to log(2 / 2) = 0.
        ((800, 600), (2, 2)),
        # 1344 * 1344 / 448**2 = 9: grids of 8 and 9, and 10 is above the limit. log(1) = 0 is that of 3 x 3.
        ((1344, 1344), (3, 3)),
        # 1920 * 1080 / 448**2 = 10.3, limited to 9. log(16 / 9) = 0.575: 4 x 2 has 0.693, 3 x 3 has 0.
        ((1920, 1080), (4, 2)),
        ((1080, 1920), (2, 4)),
        # 4000 * 100 / 448**2 = 1.99, so 2: log(40) = 3.69 is nearest to log(3 / 1) = 1.10.
        ((4000, 100), (3, 1)),
    ],
)
def test_grids(size: tuple[int, int], grid: tuple[int, int] | None) -> None:
    assert RELEASED.grid(size) == grid


def test_one_slice_means_none() -> None:
    assert Slicing(max_slices=1, resolution=448, patch=14).grid((4000, 3000)) is None
    assert Slicing(max_slices=2, resolution=448, patch=14).grid((4000, 3000)) == (2, 1)


@pytest.mark.parametrize(
    ("size", "overview"),
    [
        ((448, 448), (448, 448)),
        ((100, 100), (448, 448)),  # enlarged
        # shape 4 / 3: height int(448 / 1.1547) = 387, width int(387 * 4 / 3) = 516; 36.86 and 27.64 patches.
        ((800, 600), (37 * 14, 28 * 14)),
        # shape 16 / 9: height int(448 / 1.3333) = 336, width int(336 * 1.7777) = 597; 42.64 and 24 patches.
        ((1920, 1080), (43 * 14, 24 * 14)),
        # shape 100: height int(448 / 10) = 44, width 4400; 314.29 and 3.14 patches.
        ((1000, 10), (314 * 14, 3 * 14)),
        # shape 1 / 1024: height 448 * 32 = 14336, width 14; 1 and 1024 patches.
        ((1, 1024), (14, 14336)),
    ],
)
def test_overviews(size: tuple[int, int], overview: tuple[int, int]) -> None:
    assert RELEASED.overview(size) == overview


@pytest.mark.parametrize(
    ("size", "grid", "sheet"),
    [
        ((1344, 1344), (3, 3), (1344, 1344)),
        # Cells of 400 x 300 have shape 4 / 3 as the picture: 37 x 28 patches, as its overview.
        ((800, 600), (2, 2), (2 * 37 * 14, 2 * 28 * 14)),
        # Cells of 480 x 540, shape 0.8889: height int(448 / 0.9428) = 475, width int(475 * 0.8889) = 422;
        # 30.14 and 33.93 patches.
        ((1920, 1080), (4, 2), (4 * 30 * 14, 2 * 34 * 14)),
        # 450 is 2 * 225, and cells of 225 x 448 have shape 0.5022: height int(448 / 0.7087) = 632, width 317;
        # 22.64 and 45.14 patches.
        ((450, 448), (2, 1), (2 * 23 * 14, 45 * 14)),
        # 4000 is nearest to 3 * 1333 = 3999; shape 13.33: height int(448 / 3.651) = 122, width int(122 * 13.33) = 1626;
        # 116.14 and 8.71 patches.
        ((4000, 100), (3, 1), (3 * 116 * 14, 9 * 14)),
    ],
)
def test_sheets(size: tuple[int, int], grid: tuple[int, int], sheet: tuple[int, int]) -> None:
    assert RELEASED.sheet(size, grid) == sheet


def test_halves_are_rounded_to_even() -> None:
    """Python's `round`, as released: 35 pixels are 2.5 patches, which is 2."""
    assert Slicing(max_slices=9, resolution=35, patch=14).overview((10, 10)) == (28, 28)
    assert Slicing(max_slices=9, resolution=49, patch=14).overview((10, 10)) == (56, 56)
