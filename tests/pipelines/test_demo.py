"""`make demo`, shortened: every step runs, the figures are real, and what is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from pipelines import demo
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.registry.models import list_models

SHORT = ["train.steps=20", "train.warm_start_steps=10", "train.warmup_steps=5", "run.train.checkpoint_every=30"]


@contextmanager
def no_bar(title: str, *, unit: str) -> Iterator[Callable[..., None]]:
    assert title and unit
    yield lambda *_: None


@pytest.mark.slow
def test_the_demo_trains_registers_evaluates_and_shows_every_kind_of_prompt(tmp_path: Path) -> None:
    def run() -> demo.DemoSummary:
        return demo.run(tmp_path, overrides=SHORT, bar=no_bar, captions=256, cases=100)

    report = run()
    assert report.captions == 256
    assert report.held_out_scenes == 100
    assert report.teacher_right >= 0.85
    assert report.student_right < report.shipped_right - 0.2, "thirty steps are few"
    assert report.shipped_right >= report.teacher_right - 0.08
    rows = json.loads((tmp_path / "evaluation" / "report.json").read_text("utf-8"))["rows"]
    assert {(row["suite"], row["split"]) for row in rows} == {("english", "held_out")}
    [model] = list_models(f"sqlite:///{report.mlflow_database}")
    assert model.name == demo.MODEL
    with Image.open(report.contact_sheet) as sheet:
        assert sheet.height > 64 * demo.SHEET_ROWS * len(DEFAULT_SUITES)
    assert run() == report
