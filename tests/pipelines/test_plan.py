"""What `plan` says of captions or of a number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import RECIPES
from pipelines.plan import captions_or_rows, describe
from x2i_platform.errors import InputError
from x2i_platform.precompute.captions import Captions, Reading
from x2i_platform.recipes import load

RECIPE = load("mini", shipped=RECIPES)


def test_captions_cost_what_their_number_and_length_cost(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("a red circle\na red circle\na blue square above it\n", encoding="utf-8")
    counted = describe(RECIPE, captions=Captions(str(path)), rows=None, gpu="h100", price=2.0)
    assert (counted["rows"], counted.pop("not_read")) == (2, {})
    given = describe(RECIPE, captions=None, rows=2, gpu="h100", price=2.0)
    assert counted.keys() == given.keys()
    assert counted["train_gpu_hours"] == given["train_gpu_hours"]
    one, other = ({table["table"]: table["bytes_per_row"] for table in plan["tables"]} for plan in (counted, given))
    assert one["targets"] == other["targets"]
    assert one["mllm"] < other["mllm"]  # shorter than the captions a plan without any supposes


def test_either_captions_or_a_number_of_rows_is_priced() -> None:
    assert captions_or_rows(None, rows=3, reading=Reading()) is None
    captions = captions_or_rows("c.csv", rows=None, reading=Reading(encoding="utf-16"))
    assert captions == Captions("c.csv", Reading(encoding="utf-16"))
    for path, rows in ((None, None), ("c.csv", 3)):
        with pytest.raises(InputError, match="either --captions PATH or --rows N"):
            captions_or_rows(path, rows=rows, reading=Reading())
    with pytest.raises(InputError, match="it goes with --captions"):
        captions_or_rows(None, rows=3, reading=Reading(encoding="utf-16"))
