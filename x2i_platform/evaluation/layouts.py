"""Images laid out as the scorers of two published benchmarks, GenEval and DPG-Bench, read them.

    GenEval                                    DPG-Bench
    FOLDER/00000/metadata.jsonl                FOLDER/ITEM_ID.png     four images, 2 x 2
    FOLDER/00000/samples/00000.png …

Invariants: a prompt is there with all its images or not at all; nothing else lies in the folders, for DPG-Bench takes
every file for a grid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from x2i_platform.errors import InputError
from x2i_platform.evaluation.png import save_png
from x2i_platform.files import publish, publish_folder, scratch_folder

GRID_IMAGES = 4


def save_geneval(folder: Path, images: Sequence[Image.Image], *, index: int, metadata: Mapping[str, Any]) -> list[Path]:
    """Lay out a prompt's images for GenEval's `evaluate_images.py FOLDER`; returns their paths.

    `index` is the prompt's line in the prompt file, from 0; `metadata` is that line. Its scorer marks everything right
    that asks for nothing, so a line without `tag`, `include` and `prompt` raises InputError. What was there under the
    index is replaced. Names as in `generation/diffusers_generate.py` of djghosh13/geneval.
    """
    missing = [name for name in ("tag", "include", "prompt") if not metadata.get(name)]
    if missing:
        raise InputError(
            f"GenEval prompt {index}: no {', '.join(map(repr, missing))}; its lines have tag, include, prompt"
        )
    target = folder / f"{index:05d}"
    names = [f"samples/{number:05d}.png" for number in range(len(images))]
    with scratch_folder(target) as scratch:  # the scorer reads no folder whose name isn't digits alone
        # ASCII, as GenEval writes it: its scorer opens the file in the machine's own encoding.
        publish(scratch / "metadata.jsonl", json.dumps(dict(metadata)).encode())
        for name, image in zip(names, images, strict=True):
            save_png(image.convert("RGB"), scratch / name)
        if target.exists():
            shutil.rmtree(target)
        publish_folder(scratch, target)
    return [target / name for name in names]


def save_dpg(folder: Path, images: Sequence[Image.Image], *, item_id: str) -> Path:
    """Lay out a prompt's four images for DPG-Bench's `compute_dpg_bench.py`; returns the grid's path.

    The scorer cuts the grid into squares of `--resolution` pixels, row by row, with `--pic-num 4`, and takes the file's
    name up to its first dot for the item; so InputError for an `item_id` with a dot or a slash, and ValueError for
    other than four square images of one size.
    """
    if not item_id or item_id != item_id.strip() or any(char in item_id for char in "./\\\0"):
        raise InputError(f"DPG-Bench item {item_id!r}: the name of a prompt file is expected, such as 'partiprompts16'")
    side = images[0].width if images else 0
    if len(images) != GRID_IMAGES or any(image.size != (side, side) for image in images):
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images) or "none"
        raise ValueError(f"DPG-Bench item '{item_id}' takes {GRID_IMAGES} square images of one size, not {sizes}")
    grid = Image.new("RGB", (2 * side, 2 * side))
    for place, image in enumerate(images):
        grid.paste(image.convert("RGB"), ((place % 2) * side, (place // 2) * side))
    path = folder / f"{item_id}.png"
    save_png(grid, path)
    return path
