"""A recipe of your own: extend one that ships, and see what changes before anything is computed.

python examples/own_recipe.py            # writes my-recipe.yaml into a new temporary folder
python examples/own_recipe.py FOLDER
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipelines import RECIPES
from x2i_platform import fingerprint
from x2i_platform.digests import differences
from x2i_platform.errors import ConfigError
from x2i_platform.plan import plan_recipe
from x2i_platform.recipes import load

# Only what differs is written down; sections are merged key by key. x2i_platform/config.py says what every key means.
MINE = """\
extends: mini
description: Fewer targets, a shorter training.
targets: {taps: single, image_tokens: 8, text_tokens: 8}
train: {steps: 200, warm_start_steps: 0}
"""
CAPTIONS = 1_000_000


def main(folder: Path) -> None:
    path = folder / "my-recipe.yaml"
    path.write_text(MINE, encoding="utf-8")
    theirs, mine = load("mini", shipped=RECIPES), load(str(path), shipped=RECIPES)

    print(f"{path} differs from mini in")
    for line in differences(mine.model_dump(mode="json"), theirs.model_dump(mode="json"), where="in mini"):
        print(f"    {line}")

    # The fingerprint of a table holds all that changes its numbers.
    ours, shipped = fingerprint.features(mine), fingerprint.features(theirs)
    print(f"tables with other numbers: {', '.join(table for table in ours if ours[table] != shipped[table])}")

    print(f"a store of {CAPTIONS:,} captions takes")
    for recipe in (theirs, mine):
        print(f"    {recipe.name}: {plan_recipe(recipe, rows=CAPTIONS).total_bytes / 1e9:.0f} GB")

    # A slip of the pen is refused, with the nearest name.
    try:
        load(str(path), shipped=RECIPES, overrides=["train.step=100"])
    except ConfigError as error:
        print(f"refused: {error}")

    print(f"go on with: x2i-platform precompute {path} --captions captions.txt --store store")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="x2i-recipe-")))
