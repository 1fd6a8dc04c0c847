"""The benchmarks' layouts: read back by the rules of their own scorers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from x2i_platform.errors import InputError
from x2i_platform.evaluation.layouts import save_dpg, save_geneval

METADATA = {
    "tag": "colors",
    "include": [{"class": "café", "count": 1, "color": "red"}],
    "prompt": "a photo of a red café",
}
COLOURS = ["red", "green", "blue", "white"]


def squares(side: int = 16) -> list[Image.Image]:
    return [Image.new("RGB", (side, side), colour) for colour in COLOURS]


def read_as_geneval(folder: Path) -> dict[str, tuple[Any, list[str]]]:
    """Metadata and images by prompt, as evaluate_images.py finds them."""
    found = {}
    for prompt in folder.iterdir():
        if not prompt.is_dir() or not prompt.name.isdigit():
            continue
        metadata = json.loads((prompt / "metadata.jsonl").read_text(encoding="ascii"))
        names = [file.name for file in (prompt / "samples").iterdir()]
        found[prompt.name] = metadata, sorted(name for name in names if re.match(r"\d+\.png", name))
    return found


def test_geneval_finds_each_prompt_with_its_images(tmp_path: Path) -> None:
    paths = save_geneval(tmp_path, squares(), index=3, metadata=METADATA)
    save_geneval(tmp_path, squares()[:1], index=552, metadata=METADATA)
    names = ["00000.png", "00001.png", "00002.png", "00003.png"]
    assert read_as_geneval(tmp_path) == {"00003": (METADATA, names), "00552": (METADATA, names[:1])}
    assert paths == [tmp_path / "00003" / "samples" / name for name in names]
    for path, image in zip(paths, squares(), strict=True):
        assert Image.open(path).format == "PNG"
        assert Image.open(path).tobytes() == image.tobytes()
    assert (tmp_path / "00003" / "metadata.jsonl").read_bytes() == json.dumps(METADATA).encode()


def test_a_prompt_laid_out_again_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    save_geneval(tmp_path, squares(), index=0, metadata=METADATA)
    save_geneval(tmp_path, squares()[:2], index=0, metadata={**METADATA, "prompt": "other"})
    assert read_as_geneval(tmp_path)["00000"] == ({**METADATA, "prompt": "other"}, ["00000.png", "00001.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["00000"]


def test_a_prompt_broken_off_is_not_there(tmp_path: Path) -> None:
    class Broken(Image.Image):
        def convert(self, *_: Any, **__: Any) -> Image.Image:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_geneval(tmp_path, [*squares(), Broken()], index=0, metadata=METADATA)
    assert read_as_geneval(tmp_path) == {}
    save_geneval(tmp_path, squares(), index=0, metadata=METADATA)
    assert [path.name for path in tmp_path.iterdir()] == ["00000"]


@pytest.mark.parametrize("missing", ["tag", "include", "prompt"])
def test_a_line_that_asks_for_nothing_is_refused(tmp_path: Path, missing: str) -> None:
    metadata = {name: value for name, value in METADATA.items() if name != missing}
    with pytest.raises(InputError, match=f"GenEval prompt 7: no '{missing}'"):
        save_geneval(tmp_path, squares(), index=7, metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_dpg_cuts_the_grid_into_the_images(tmp_path: Path) -> None:
    path = save_dpg(tmp_path / "images", squares(16), item_id="COCOval2014000000000042")
    assert [file.name for file in (tmp_path / "images").iterdir()] == ["COCOval2014000000000042.png"]
    assert path.name.split(".")[0] == "COCOval2014000000000042"
    grid, side = Image.open(path), 16
    assert (grid.format, grid.mode, grid.size) == ("PNG", "RGB", (32, 32))
    boxes = [
        (0, 0, side, side),
        (side, 0, side * 2, side),
        (0, side, side, side * 2),
        (side, side, side * 2, side * 2),
    ]
    for box, image in zip(boxes, squares(side), strict=True):
        assert grid.crop(box).tobytes() == image.tobytes()


@pytest.mark.parametrize("item_id", ["", "a.b", "../a", "a/b", " a", "a\\b"])
def test_an_item_that_is_no_file_name_is_refused(tmp_path: Path, item_id: str) -> None:
    with pytest.raises(InputError, match="DPG-Bench item"):
        save_dpg(tmp_path, squares(), item_id=item_id)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "images", [[], squares()[:3], [*squares(), *squares()], [*squares()[:3], Image.new("RGB", (16, 8))]]
)
def test_other_than_four_squares_are_refused(tmp_path: Path, images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="takes 4 square images of one size"):
        save_dpg(tmp_path, images, item_id="a")
