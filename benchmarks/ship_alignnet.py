"""`python benchmarks/ship_alignnet.py --folder DIR`: train the AlignNet that ships with the miniature models.

It is measured on every suite, and put beside them with its figures in their manifest.

It goes through the same pipelines as any other model; run it again to continue where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines import RECIPES, evaluate, precompute, train
from x2i_platform.console import progress_bar
from x2i_platform.evaluation.options import Options
from x2i_platform.evaluation.results import ALL
from x2i_platform.evaluation.statistics import Figures
from x2i_platform.evaluation.work import in_this_process
from x2i_platform.mini import captions_path
from x2i_platform.mini.checkpoints import MANIFEST, digests, trained_folder
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.precompute.captions import Captions
from x2i_platform.recipes import load
from x2i_platform.registry.models import resolve
from x2i_platform.training.job import prepare

RECIPE = "mini-full"
NAME = "mini-alignnet"
FILES = ("alignnet.safetensors", "config.json", "recipe.json")
OTHERS = tuple(suite for suite in DEFAULT_SUITES if suite != "english")
EVALUATIONS = {
    "english": Options(suites=("english",), splits=("held_out",), cases=1000),
    "held-out": Options(suites=OTHERS, splits=("held_out",), cases=400),
    "robustness": Options(suites=("robustness",), splits=("held_out",), cases=700),
    "seen": Options(splits=("seen",), cases=100),
}
"""By folder; each by states of the prompt and of the answer."""


def run(folder: Path) -> None:
    """Train, copy, evaluate. `folder` keeps features, checkpoints, MLflow's database and the reports."""
    recipe = load(RECIPE, shipped=RECIPES)
    uri, store = f"sqlite:///{(folder / 'mlflow.db').absolute()}", str(folder / "store")
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("precompute", unit="captions") as progress:
        precompute.run(recipe, Captions(str(captions_path())), store=store, address=None, on_progress=progress)
    job = prepare(recipe, store=store)
    with progress_bar("train", unit="steps") as progress:
        trained = train.run(job, train.Destination(NAME, uri, str(folder / "runs")), address=None, on_progress=progress)
    source, target = resolve(trained.model, tracking_uri=uri), trained_folder() / "alignnet"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    model = evaluate.Student("mini:alignnet", target, read_recipe(target))
    rows: list[Figures] = []
    for name, options in EVALUATIONS.items():
        with progress_bar(name, unit="images") as progress:
            rows += evaluate.run(
                model, out=folder / name, options=options, workers=in_this_process, on_progress=progress
            ).rows
    _add_to_manifest(rows, trained=trained, seed=recipe.train.seed)


def _add_to_manifest(rows: Sequence[Figures], *, trained: train.TrainingSummary, seed: int) -> None:
    path = trained_folder() / MANIFEST
    manifest = json.loads(path.read_text("utf-8"))
    manifest["alignnet"] = {
        "command": "python benchmarks/ship_alignnet.py --folder DIR",
        "recipe": RECIPE,
        "seed": seed,
        "steps": trained.steps,
        "seconds": round(trained.seconds),
    }
    measured = {f"{row.suite}, {row.split}, {row.states} states": row for row in reversed(rows) if row.category == ALL}
    manifest["accuracy"] = {
        name: {
            "scenes": row.cases,
            "student": row.accuracy,
            "teacher": row.baseline_accuracy,
            "difference": row.difference,
            "interval_95": [row.difference_low, row.difference_high],
        }
        for name, row in sorted(measured.items())
    }
    manifest["sha256"] = digests(trained_folder())
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where features, checkpoints and the report are kept"
    )
    run(parser.parse_args().folder)


if __name__ == "__main__":
    main()
