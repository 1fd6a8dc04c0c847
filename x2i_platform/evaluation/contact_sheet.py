"""Many small images on one page, each row above its caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP = 8
CELL = 128
TITLE_HEIGHT = 20
CAPTION_LINE = 14
CAPTION_LINES = 3
CHAR_WIDTH = 6
"""A little more than the mean width of a character of the font at its size."""


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, columns: Sequence[str], pairs_across: int = 2
) -> Image.Image:
    """A sheet of rows `(caption, images)`, one image a column, laid out `pairs_across` rows side by side.

    Images are scaled to 128 pixels on their longer side; smaller ones by the whole factor that comes closest to it. A
    caption gets three lines under its own images, and ends in … where it has more.
    """
    font = _font()
    width = len(columns) * (CELL + GAP) + 2 * GAP
    height = CELL + CAPTION_LINES * CAPTION_LINE + GAP
    across = max(1, min(pairs_across, len(rows)))
    lines = -(-len(rows) // across)
    sheet = Image.new("RGB", (width * across, TITLE_HEIGHT + lines * height + GAP), "white")
    titles = ImageDraw.Draw(sheet)
    for place in range(across):
        for column, title in enumerate(columns):
            titles.text((place * width + GAP + column * (CELL + GAP), 4), title, fill="black", font=font)
    for index, (caption, images) in enumerate(rows):
        # Drawn on a tile of its own, so that nothing wide runs into the neighbour.
        tile = Image.new("RGB", (width - GAP, height), "white")
        for column, image in enumerate(images):
            tile.paste(_fitted(image), (column * (CELL + GAP), 0))
        chars = (width - 2 * GAP) // CHAR_WIDTH
        text = "\n".join(textwrap.wrap(caption, chars, max_lines=CAPTION_LINES, placeholder=" …"))
        ImageDraw.Draw(tile).text((0, CELL + 2), text, fill="black", font=font, spacing=2)
        sheet.paste(tile, ((index % across) * width + GAP, TITLE_HEIGHT + (index // across) * height))
    return sheet


def can_write(text: str) -> bool:
    """Whether the sheets' font has every letter of a text; it has none of Chinese or Japanese."""
    font = _font()
    missing = bytes(font.getmask("\uffff"))
    return all(bytes(font.getmask(letter)) != missing for letter in set(text) if not letter.isspace())


def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib; Pillow's own font lacks é and ü."""
    import matplotlib  # takes a second to load, and a sheet is rarely drawn

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size=10)


def _fitted(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    scale = CELL // longer if longer <= CELL else CELL / longer
    method = Image.Resampling.NEAREST if longer <= CELL else Image.Resampling.LANCZOS
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, method)
