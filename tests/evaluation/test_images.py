"""Images of an evaluation: those of prompt files laid out for scorers, and none taken for another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate import Baseline, choose_tasks
from tests.pipelines.evaluation_runs import SMALL, evaluate, mtimes, pixels, report
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError, InputError, StoreError
from x2i_platform.evaluation.images import student_file
from x2i_platform.evaluation.options import Options
from x2i_platform.recipes import override

GENEVAL = (
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a photo of a red cow"},
)


def test_prompts_of_geneval_are_measured_and_laid_out(model_folder: Path, tmp_path: Path) -> None:
    prompts, out = tmp_path / "geneval.jsonl", tmp_path / "out"
    prompts.write_text("".join(json.dumps(line) + "\n" for line in GENEVAL), encoding="utf-8")
    chosen = Options(prompts=str(prompts), images=2, layout="geneval")
    evaluate(model_folder, out, chosen, overrides=["mllm.answer_tokens=4"])
    data = report(out)
    assert len(data["results"]) == 2 * 2 * 2
    assert {(one["right"], one["baseline_right"], one["split"]) for one in data["results"]} == {(None, None, "all")}
    assert all(0 < one["psnr"] <= 100 and -1 <= one["ssim"] <= 1 for one in data["results"])
    assert {row["category"] for row in data["rows"]} == {"all", "single_object", "colors"}
    assert {(row["accuracy"], row["difference"], row["pairs"]) for row in data["rows"]} == {(None, None, 0)}
    for side in ("student-prompt", "student-answer", "baseline"):
        for number, line in enumerate(GENEVAL):
            folder = out / "geneval" / side / f"{number:05d}"
            assert json.loads((folder / "metadata.jsonl").read_text()) == line
            assert sorted(path.name for path in (folder / "samples").iterdir()) == ["00000.png", "00001.png"]
    answers = [pixels(path).tobytes() for path in sorted((out / "geneval" / "student-answer").rglob("*.png"))]
    mine = [path for path in sorted((out / "images" / "student").iterdir()) if path.stem.endswith("-answer")]
    assert answers == [pixels(path).tobytes() for path in mine]


def test_prompts_of_a_text_file_are_laid_out_as_grids_and_a_changed_line_is_drawn_anew(
    model_folder: Path, tmp_path: Path
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    chosen = Options(prompts=str(prompts), states=("prompt",), layout="dpg")
    prompts.write_text("a red circle\na blue square\n", encoding="utf-8")
    assert evaluate(model_folder, out, chosen)[1] == 8
    grids = {path.relative_to(out / "dpg").as_posix(): pixels(path) for path in (out / "dpg").rglob("*.png")}
    assert sorted(grids) == ["baseline/0.png", "baseline/1.png", "student-prompt/0.png", "student-prompt/1.png"]
    assert {grid.shape for grid in grids.values()} == {(128, 128, 3)}
    prompts.write_text("a red circle\nzwei grüne Dreiecke\n", encoding="utf-8")
    assert evaluate(model_folder, out, chosen)[1] == 4
    assert {one["prompt"] for one in report(out)["results"]} == {"a red circle", "zwei grüne Dreiecke"}
    changed = {name for name, grid in grids.items() if not np.array_equal(pixels(out / "dpg" / name), grid)}
    assert changed == {"baseline/1.png", "student-prompt/1.png"}


def test_what_no_scorer_takes_is_refused_before_anything_is_drawn(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\n", encoding="utf-8")
    chosen = Options(prompts=str(tmp_path / "prompts.txt"), states=("prompt",))
    with pytest.raises(InputError, match="prompt 1 has no 'tag', 'include'; use GenEval's own file"):
        evaluate(model_folder, tmp_path / "out", replace(chosen, layout="geneval"))
    with pytest.raises(ConfigError, match=r"takes square images, not .* = 96 x 64"):
        evaluate(model_folder, tmp_path / "out", replace(chosen, layout="dpg"), overrides=["generate.width=96"])
    assert not (tmp_path / "out").exists()


def test_another_model_draws_in_the_size_that_was_asked_for(
    model_folder: Path, make_model: Callable[..., Path], mini_recipe: Recipe, tmp_path: Path
) -> None:
    other = make_model(override(mini_recipe, ["alignnet.fusion=mean"]))
    evaluate(model_folder, tmp_path, SMALL, baseline=Baseline("other", other), overrides=["generate.width=96"])
    assert {pixels(path).shape for path in mtimes(tmp_path)} == {(64, 96, 3)}
    assert report(tmp_path)["rows"][0]["psnr"] < 100


def test_images_of_a_deleted_evaluation_are_not_taken_for_this_one(model_folder: Path, tmp_path: Path) -> None:
    evaluate(model_folder, tmp_path, SMALL)
    (tmp_path / "results.jsonl").unlink()
    evaluate(model_folder, tmp_path, SMALL, baseline=Baseline("itself", model_folder))
    assert report(tmp_path)["rows"][0]["psnr"] == 100


def test_an_image_that_is_gone_is_named(model_folder: Path, tmp_path: Path, mini_recipe: Recipe) -> None:
    evaluate(model_folder, tmp_path, SMALL)
    (tmp_path / student_file(choose_tasks(mini_recipe, SMALL)[0])).unlink()
    with pytest.raises(StoreError, match=r"english-held_out-00000-prompt\.png.*No such file.*delete results\.jsonl"):
        evaluate(model_folder, tmp_path, SMALL)
