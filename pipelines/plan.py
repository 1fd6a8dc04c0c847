"""A recipe and captions → what they would cost. Nothing is loaded or written. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from x2i_platform.config import Recipe
from x2i_platform.errors import InputError
from x2i_platform.plan import plan_recipe
from x2i_platform.precompute.captions import Captions, Reading
from x2i_platform.precompute.intake import count_captions


def captions_or_rows(path: str | None, *, rows: int | None, reading: Reading) -> Captions | None:
    """The captions to count; None if a number of rows is given. Raises InputError unless exactly one is given."""
    if (path is None) == (rows is None):
        raise InputError("plan needs either --captions PATH or --rows N")
    if path is None and reading != Reading():
        raise InputError("how captions are read says nothing about --rows; it goes with --captions")
    return None if path is None else Captions(path, reading)


def describe(
    recipe: Recipe, *, captions: Captions | None, rows: int | None, gpu: str, price: float | None
) -> dict[str, Any]:
    """The plan for captions, or for a number of them."""
    if captions is None:
        return asdict(plan_recipe(recipe, rows=rows or 0, gpu=gpu, price=price))
    _, counted = count_captions(captions.records(), path=captions.path)
    plan = plan_recipe(recipe, rows=counted.rows, caption_chars=counted.mean_chars, gpu=gpu, price=price)
    return {**asdict(plan), "not_read": captions.found.not_read}
