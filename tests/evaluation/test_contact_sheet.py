"""Contact sheets: every image is on the page, and no caption runs into its neighbour."""

from __future__ import annotations

import pytest
from PIL import Image

from x2i_platform.evaluation.contact_sheet import CELL, GAP, TITLE_HEIGHT, can_write, contact_sheet

WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_every_image_stands_in_its_cell() -> None:
    sheet = contact_sheet([("one", [plain(RED), plain(BLUE)])] * 5, columns=["teacher", "student"], pairs_across=2)
    pair = 2 * (CELL + GAP) + 2 * GAP
    assert sheet.width == 2 * pair
    row = (sheet.height - TITLE_HEIGHT - GAP) // 3
    for index in range(5):
        left, top = (index % 2) * pair + GAP, TITLE_HEIGHT + (index // 2) * row
        assert sheet.getpixel((left, top)) == sheet.getpixel((left + CELL - 1, top + CELL - 1)) == RED
        assert sheet.getpixel((left + CELL + GAP, top)) == BLUE
    assert sheet.getpixel((pair + GAP, TITLE_HEIGHT + 2 * row)) == WHITE


@pytest.mark.parametrize("caption", ["word " * 80, "x" * 400, "汉字" * 200, "W" * 400])
def test_a_long_caption_stays_under_its_own_images(caption: str) -> None:
    sheet = contact_sheet([(caption, [plain(RED)]), ("", [plain(RED)])], columns=["image"], pairs_across=2)
    pair = sheet.width // 2
    under = sheet.crop((0, TITLE_HEIGHT + CELL, pair, sheet.height))
    assert under.getextrema() != ((255, 255),) * 3
    neighbour = sheet.crop((pair, TITLE_HEIGHT + CELL, sheet.width, sheet.height))
    assert neighbour.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (128, 128)),
        ((48, 24), (96, 48)),
        ((1024, 512), (128, 64)),
        ((128, 128), (128, 128)),
        ((2000, 1), (128, 1)),
    ],
)
def test_images_keep_their_shape_and_small_ones_grow_by_whole_pixels(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    sheet = contact_sheet([("", [plain(RED, size)])], columns=["image"])
    red = sheet.crop((GAP, TITLE_HEIGHT, GAP + CELL, TITLE_HEIGHT + CELL)).getchannel("G").point(lambda g: 255 - g)
    assert red.getbbox() == (0, 0, *shown)


def test_other_modes_and_an_empty_list_make_a_page() -> None:
    modes = [Image.new(mode, (32, 32)) for mode in ("L", "RGBA", "P", "1")]
    sheet = contact_sheet([("a", [image]) for image in modes], columns=["image"], pairs_across=9)
    assert sheet.width == 4 * (CELL + 3 * GAP)
    assert contact_sheet([], columns=["image"]).mode == "RGB"


def test_the_sheets_font_knows_the_latin_letters_of_four_languages_and_owns_up_to_the_rest() -> None:
    for text in ("", "ein größeres grünes Herz", "un carré bleu à gauche", "một hình tròn màu đỏ ở trên"):
        assert can_write(text)
    assert not can_write("三个红色圆形")
    assert not can_write("a circle, 円")
