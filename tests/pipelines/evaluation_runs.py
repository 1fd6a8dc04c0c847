"""Evaluations for the tests of this folder, and what they leave on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.evaluate import Baseline, Student, run
from x2i_platform.evaluation.options import Options
from x2i_platform.evaluation.outcome import Outcome
from x2i_platform.evaluation.work import Workers, in_this_process
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.recipes import override

TEACHER = Baseline()
SMALL = Options(suites=("english",), splits=("held_out",), states=("prompt",), cases=2)


def evaluate(
    folder: Path,
    out: Path,
    options: Options,
    *,
    baseline: Baseline = TEACHER,
    workers: Workers = in_this_process,
    overrides: Sequence[str] = (),
) -> tuple[Outcome, int]:
    """What came out, and how many images of the student were drawn for it."""
    progress = [(0, 0)]
    model = Student("student", folder, override(read_recipe(folder), overrides))
    outcome = run(
        model,
        out=out,
        options=options,
        baseline=baseline,
        workers=workers,
        on_progress=lambda done, total, *_: progress.append((done, total)),
    )
    assert progress[-1][0] == progress[-1][1]
    return outcome, progress[-1][1]


def report(out: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return data


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def mtimes(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.png")}
