"""Many small images on one page, each row under its caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8
CELL = 128
TITLE_HEIGHT = 20
CAPTION_LINE = 14
CAPTION_CHARS = 48


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, columns: Sequence[str], pairs_across: int = 2
) -> Image.Image:
    """A sheet of rows `(caption, images)`, one image a column, laid out `pairs_across` rows side by side.

    Images are scaled to 128 pixels a side, by whole pixels where they are smaller.
    """
    font = ImageFont.load_default(size=11)
    width = len(columns) * (CELL + GAP) + 2 * GAP
    height = CELL + 3 * CAPTION_LINE + GAP
    lines = -(-len(rows) // pairs_across)
    sheet = Image.new("RGB", (width * pairs_across, TITLE_HEIGHT + lines * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for across in range(pairs_across):
        for column, title in enumerate(columns):
            draw.text((across * width + GAP + column * (CELL + GAP), 4), title, fill="black", font=font)
    for index, (caption, images) in enumerate(rows):
        left, top = (index % pairs_across) * width + GAP, TITLE_HEIGHT + (index // pairs_across) * height
        for column, image in enumerate(images):
            sheet.paste(_fitted(image), (left + column * (CELL + GAP), top))
        text = "\n".join(textwrap.wrap(caption, CAPTION_CHARS)[:3])
        draw.text((left, top + CELL + 2), text, fill="black", font=font, spacing=2)
    return sheet


def _fitted(image: Image.Image) -> Image.Image:
    method = Image.Resampling.NEAREST if max(image.size) < CELL else Image.Resampling.LANCZOS
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, method)
