"""A model against its teacher on real parts: what is drawn and measured, what a second run keeps, who becomes champion.

The miniature models here are untrained or nearly so: nearly nothing they draw is right, and no test needs it to be.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

import cli
from pipelines import RECIPES
from pipelines.evaluate import Baseline, Student, choose_tasks, describe, on_ray, publish
from tests.pipelines.evaluation_runs import SMALL, evaluate, mtimes, pixels, report
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError, InputError, StoreError
from x2i_platform.evaluation.images import baseline_file, student_file
from x2i_platform.evaluation.metrics import psnr
from x2i_platform.evaluation.options import Options
from x2i_platform.mini.judge import judge
from x2i_platform.mini.perturbations import PERTURBATIONS
from x2i_platform.mini.suites import DEFAULT_SUITES
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.models.weights import locate
from x2i_platform.recipes import load, override
from x2i_platform.registry.connection import connect
from x2i_platform.registry.models import list_models, register
from x2i_platform.registry.tracking import RunInfo, RunLogger, start_or_resume
from x2i_platform.training.validation import attention_distance

CASES = 5
WHOLE = Options(suites=("english", "german", "image", "video"), cases=CASES)


@pytest.fixture(scope="module")
def recipe(mini_recipe: Recipe) -> Recipe:
    """Answers of few tokens: untrained, the MLLM never ends one."""
    return override(mini_recipe, ["mllm.answer_tokens=4"])


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path], recipe: Recipe) -> Path:
    return make_model(recipe)


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    connect(uri)
    return uri


def registered(folder: Path, *, name: str, tracking_uri: str) -> RunInfo:
    info = start_or_resume(tracking_uri=tracking_uri, experiment="e", run_name=name, key=name, params={}, tags={})
    with RunLogger(info, sample_every_s=1000) as log:
        log.metrics({"kl_per_token": 0.5}, step=2)
    register(folder, name=name, info=info, manifest_digest="abc", card="# A model\n")
    return info


@pytest.fixture(scope="module")
def out(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole evaluation against the teacher; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("evaluation") / "a" / "fresh folder"
    _, drawn = evaluate(model, folder, WHOLE)
    assert drawn == len(WHOLE.suites) * 2 * 2 * CASES
    return folder


def test_the_report_has_a_row_for_each_suite_split_and_kind_of_states(out: Path) -> None:
    data = report(out)
    rows = [row for row in data["rows"] if row["category"] == "all"]
    assert [(row["suite"], row["split"], row["states"]) for row in rows] == [
        (suite, split, states)
        for suite in WHOLE.suites
        for split in ("held_out", "seen")
        for states in ("prompt", "answer")
    ]
    for row in rows:
        own = [
            result for result in data["results"] if all(result[key] == row[key] for key in ("suite", "split", "states"))
        ]
        assert row["cases"] == row["pairs"] == len(own) == CASES
        assert row["accuracy"] == sum(result["right"] for result in own) / CASES
        assert row["psnr"] == pytest.approx(sum(result["psnr"] for result in own) / CASES)
    assert (data["baseline"], data["verdict"]) == ("teacher", None)
    assert {tuple(sheet["columns"]) for sheet in data["sheets"]} == {
        ("teacher", "student"),  # suites of words
        ("prompt", "teacher", "student"),  # of pictures and videos
    }
    assert all((out / sheet["file"]).is_file() for sheet in data["sheets"])
    assert "student against teacher" in (out / "index.html").read_text(encoding="utf-8")


def test_figures_are_of_the_images_on_disk_and_a_scene_of_the_baseline_is_drawn_once(out: Path, recipe: Recipe) -> None:
    tasks = choose_tasks(recipe, WHOLE)
    results = {result["key"]: result for result in report(out)["results"]}
    seen: dict[str, tuple[bool, str]] = {}
    for task in tasks:
        with Image.open(out / student_file(task)) as mine, Image.open(out / baseline_file(task)) as goal:
            assert mine.size == goal.size == (64, 64)
            result = results[task.key]
            assert result["psnr"] == psnr(mine, goal)
            assert task.scene
            assert result["right"] == judge(mine, task.scene).right
            theirs = (result["baseline_right"], result["baseline_reason"])
            assert seen.setdefault(f"{baseline_file(task)} {task.suite in ('image', 'video')}", theirs) == theirs
    # Words in two languages and both states ask for one image; so do a picture and a video of one scene.
    assert len(list((out / "images" / "student").iterdir())) == len(tasks) == 80
    assert {path.name for path in (out / "images" / "baseline").iterdir()} == {
        Path(baseline_file(task)).name for task in tasks
    }
    assert len({baseline_file(task) for task in tasks}) == 20


def test_the_baseline_is_what_the_stock_pipeline_draws(out: Path, recipe: Recipe) -> None:
    tasks = choose_tasks(recipe, WHOLE)[:CASES]
    stock = diffusers.FluxPipeline.from_pretrained(locate(recipe.teacher.model))
    stock.set_progress_bar_config(disable=True)
    drawn = stock(
        [task.english for task in tasks],
        generator=[torch.Generator().manual_seed(task.seed) for task in tasks],
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=recipe.generate.guidance,
        max_sequence_length=recipe.teacher.text_tokens,
    ).images
    for task, image in zip(tasks, drawn, strict=True):
        assert np.array_equal(np.asarray(image), pixels(out / baseline_file(task)))


def test_the_distance_of_attention_is_finite_and_of_the_teachers_own_conditioning_none(
    out: Path, recipe: Recipe
) -> None:
    kl = report(out)["kl"]
    assert list(kl) == ["prompt states of 10 English captions", "answer states of 10 English captions"]
    assert all(math.isfinite(value) and value > 1e-3 for value in kl.values())
    teacher, encoders = Teacher.load(recipe.teacher), TextEncoders.load(recipe.teacher)
    goal, elsewhere = (encoders.encode([caption] * 2) for caption in ("a red circle", "two small blue stars"))
    distances = [
        attention_distance(
            Conditioning(mine.prompt_embeds_BTE, mine.pooled_BP),
            goal=goal,
            teacher=teacher,
            seeds=[0, 1],
            config=recipe.train,
        )
        for mine in (goal, elsewhere)
    ]
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert distances[1] > 1e-6


def test_a_model_against_itself_differs_in_nothing(model: Path, tmp_path: Path) -> None:
    evaluate(model, tmp_path, SMALL, baseline=Baseline("itself", model))
    data = report(tmp_path)
    assert (data["baseline"], data["kl"]) == ("itself", {})
    row = data["rows"][0]
    assert (row["difference"], row["gained"], row["lost"]) == (0, 0, 0)
    assert (row["psnr"], row["ssim"]) == (100, pytest.approx(1))


def test_workers_on_ray_find_what_this_process_finds(model: Path, tmp_path: Path, ray_cluster: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    asked = replace(SMALL, suites=("english", "image"), cases=3)
    two = ["run.generate.actors=2", "run.generate.batch_size=2"]
    evaluate(model, here, asked, overrides=two)
    _, drawn = evaluate(model, there, asked, overrides=two, workers=on_ray(ray_cluster))
    assert drawn == 6
    results = [[{**one, "seconds": 0} for one in report(folder)["results"]] for folder in (here, there)]
    assert results[0] == results[1]
    assert report(here)["kl"] == pytest.approx(report(there)["kl"], rel=1e-5)
    for path in (here / "images").rglob("*.png"):
        assert (pixels(path) == pixels(there / path.relative_to(here))).all()


def test_what_a_worker_on_ray_refuses_ends_the_evaluation_in_our_words(
    model: Path, tmp_path: Path, ray_cluster: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle " * 200 + "\n")
    asked = Options(prompts=str(tmp_path / "prompts.txt"), states=("prompt",), images=1)
    with pytest.raises(InputError, match="tokens, at most"):
        evaluate(model, tmp_path / "out", asked, workers=on_ray(ray_cluster))


def test_the_same_again_draws_nothing_and_says_the_same(out: Path, model: Path) -> None:
    before, rows, log = mtimes(out), report(out)["rows"], (out / "results.jsonl").read_bytes()
    _, drawn = evaluate(model, out, WHOLE)
    assert drawn == 0
    assert (mtimes(out), report(out)["rows"], (out / "results.jsonl").read_bytes()) == (before, rows, log)


def test_after_a_kill_in_the_middle_of_a_line_only_that_case_is_drawn(out: Path, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    log = (copy / "results.jsonl").read_bytes()
    lost = json.loads(log.splitlines()[-1])["key"]
    (copy / "results.jsonl").write_bytes(log[:-40])
    before, image = mtimes(copy), copy / "images" / "student" / f"{lost}.png"
    old = pixels(image)
    _, drawn = evaluate(model, copy, WHOLE)
    assert drawn == 1
    assert {path for path, time in mtimes(copy).items() if time != before[path]} == {image}
    assert np.abs(pixels(image) - old).max() <= 1  # a batch of another size rounds differently
    assert (copy / "results.jsonl").read_bytes().splitlines()[:-1] == log.splitlines()[:-1]
    keys = ("suite", "split", "states", "category", "cases", "accuracy", "difference")
    first, again = ([[row[key] for key in keys] for row in report(folder)["rows"]] for folder in (out, copy))
    assert again == first


def test_more_cases_continue_where_fewer_ended(model: Path, tmp_path: Path) -> None:
    assert [evaluate(model, tmp_path, replace(SMALL, cases=cases))[1] for cases in (1, 3)] == [1, 2]


def test_another_evaluation_in_the_same_folder_is_refused(
    out: Path, model: Path, make_model: Callable[..., Path], recipe: Recipe
) -> None:
    before, other = (out / "results.jsonl").read_bytes(), make_model(override(recipe, ["alignnet.fusion=mean"]))
    changes: tuple[tuple[str, dict[str, Any]], ...] = (
        (r"\(model: 'sha256:", {"folder": other}),
        (r"\(settings\.guidance: 3\.5 in the report, 1\.0 asked for\)", {"overrides": ["generate.guidance=1"]}),
        (r"\(baseline: 'teacher' in the report, 'sha256:", {"baseline": Baseline("other", other)}),
        (r"\(generation: ", {"overrides": ["alignnet.padding=none"]}),
    )
    for part, arguments in changes:
        with pytest.raises(StoreError, match=f"are of another evaluation {part}.*choose another folder") as refused:
            evaluate(**{"folder": model, "out": out, "options": WHOLE, **arguments})
        assert "\n" not in str(refused.value)
    assert (out / "results.jsonl").read_bytes() == before


def test_a_dry_run_counts_and_writes_nothing(out: Path, model: Path, tmp_path: Path) -> None:
    chosen = Student("student", model, read_recipe(model))
    nowhere = tmp_path / "nowhere"
    counts = {"student_images": 80, "baseline_images": 20, "denoising_steps": 200}
    assert describe(chosen, WHOLE, out=nowhere) == {
        **{"report": str(nowhere), "of_them_drawn": 0, "of_those_drawn": 0},
        **counts,
    }
    assert not nowhere.exists()
    there = describe(chosen, WHOLE, out=out)
    assert (there["of_them_drawn"], there["of_those_drawn"]) == (80, 20)
    assert describe(chosen, SMALL, out=out)["student_images"] == 2


def test_a_real_teacher_needs_a_file_of_prompts(tmp_path: Path) -> None:
    real = load("flux-dev_qwen2.5-vl-7b", shipped=RECIPES, overrides=[])
    with pytest.raises(ConfigError, match=r"'black-forest-labs/FLUX\.1-dev' needs a file of prompts"):
        choose_tasks(real, Options())
    (tmp_path / "prompts.txt").write_text("a\nb\n", encoding="utf-8")
    assert len(choose_tasks(real, Options(prompts=str(tmp_path / "prompts.txt"), images=3))) == 2 * 3 * 2


def test_a_gate_that_does_not_hold_leaves_the_report_and_no_champion(
    model: Path, tmp_path: Path, tracking_uri: str
) -> None:
    info = registered(model, name="too-few", tracking_uri=tracking_uri)
    outcome, _ = evaluate(model, tmp_path / "report", replace(SMALL, max_drop=0.01))
    assert outcome.verdict
    assert not outcome.verdict.holds
    assert "its lower end is beyond the allowed drop of 1.00" in outcome.verdict.reason
    assert publish(outcome, model="models:/too-few/1", tracking_uri=tracking_uri) == {"run": info.run_id}
    (found,) = [one for one in list_models(tracking_uri) if one.name == "too-few"]
    assert found.aliases == {"candidate": 1}
    client = MlflowClient(tracking_uri)
    row, logged = outcome.rows[0], client.get_run(info.run_id).data.metrics
    assert {name: value for name, value in logged.items() if name.startswith("evaluation/")} == {
        f"evaluation/english/held_out/prompt/{name}": getattr(row, name)
        for name in ("accuracy", "baseline_accuracy", "difference", "difference_low", "difference_high")
    }
    assert row.difference_low is not None and row.difference_low < -0.01
    tags = client.get_model_version("too-few", "1").tags
    assert (tags["x2i.gate"], tags["x2i.gate_reason"]) == ("failed", outcome.verdict.reason)
    files = {entry.path for entry in client.list_artifacts(info.run_id, "evaluation/report")}
    assert files >= {f"evaluation/report/{name}" for name in ("index.html", "report.json", "results.jsonl", "sheets")}
    assert publish(outcome, model=str(model), tracking_uri=tracking_uri) == {}


def test_robustness_asks_both_sides_for_the_same_words_and_its_scenes_count_once(
    model: Path, tmp_path: Path, recipe: Recipe
) -> None:
    asked = replace(SMALL, suites=("robustness",), cases=14)
    assert all(task.prompt == task.english for task in choose_tasks(recipe, asked))
    outcome, drawn = evaluate(model, tmp_path, asked)
    assert drawn == 14
    rows = outcome.rows
    assert [row.category for row in rows if not row.composition] == ["all", *PERTURBATIONS]
    assert {row.cases for row in rows if row.category in PERTURBATIONS} == {2}
    results = report(tmp_path)["results"]
    assert {(one["group"], one["seed"]) for one in results} == {
        ("english-held_out-00000", 0),
        ("english-held_out-00001", 1),
    }
    assert len({one["prompt"] for one in results}) == 14
    assert {task.suite for task in choose_tasks(recipe, Options(cases=1))} == set(DEFAULT_SUITES)


def test_an_older_log_gets_its_compositions_from_the_tasks(model: Path, tmp_path: Path) -> None:
    before, _ = evaluate(model, tmp_path, SMALL)
    log = tmp_path / "results.jsonl"
    header, *lines = log.read_text(encoding="utf-8").splitlines()
    old = [{name: value for name, value in json.loads(line).items() if name != "composition"} for line in lines]
    log.write_text("".join(f"{line}\n" for line in (header, *map(json.dumps, old))), encoding="utf-8")
    after, drawn = evaluate(model, tmp_path, SMALL)
    assert (drawn, after.rows) == (0, before.rows)
    assert {result["composition"] for result in report(tmp_path)["results"]} == {"novel pair"}


def test_the_gate_judges_the_states_that_the_recipe_draws_by(model: Path, tmp_path: Path) -> None:
    chosen = Student("student", model, read_recipe(model))
    answering = override(chosen.recipe, ["generate.states=answer"])
    both = replace(SMALL, states=("prompt", "answer"), max_drop=0.5)
    assert [task.states for task in choose_tasks(chosen.recipe, both)] == ["prompt"] * 2 + ["answer"] * 2
    assert [task.states for task in choose_tasks(answering, both)] == ["answer"] * 2 + ["prompt"] * 2
    for options, judged in ((both, "answer"), (replace(SMALL, max_drop=0.5), None)):
        outcome, _ = evaluate(model, tmp_path / str(judged), options, overrides=["generate.states=answer"])
        assert outcome.verdict
        assert outcome.verdict.states == judged


@pytest.mark.parametrize(("max_drop", "code"), [("1", 0), ("0.01", 2)])
def test_the_command_makes_a_champion_or_ends_with_2(
    model: Path,
    tmp_path: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    max_drop: str,
    code: int,
    ray_cluster: str,
) -> None:
    name = f"by-command-{code}"
    info = registered(model, name=name, tracking_uri=tracking_uri)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("X2I_CACHE", str(locate("mini:random-flux").parents[2]))
    words = [
        "--suite",
        "english",
        "--states",
        "prompt",
        "--cases",
        "2",
        "--report",
        "report",
        "--json",
        "--address",
        ray_cluster,
    ]
    argv = ["x2i-platform", "evaluate", f"models:/{name}@candidate", *words, "--tracking-uri", tracking_uri]
    monkeypatch.setattr(sys, "argv", [*argv, "--gate", f"max_drop={max_drop}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert int(ended.value.code or 0) == code, printed.err
    [line] = printed.out.splitlines()
    said = json.loads(line)
    champion = {} if code else {"champion": f"models:/{name}/1"}
    assert said == {
        **{"report": "report/index.html", "cases": 4, "gate": said["gate"], "run": info.run_id},
        **{"figures": said["figures"], **champion},
    }
    errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert errors == ([f"error: gate: {said['gate']}"] if code else [])
    (found,) = [one for one in list_models(tracking_uri) if one.name == name]
    assert found.aliases == {"candidate": 1, **({} if code else {"champion": 1})}
    data = report(tmp_path / "report")
    names = ["suite", "split", "states", "cases", "accuracy", "baseline_accuracy", "difference"]
    names += ["difference_low", "difference_high", "psnr"]
    rows = [row for row in data["rows"] if row["category"] == "all"]
    assert said["figures"] == [{name: row[name] for name in names} for row in rows]
    assert [(row["split"], row["cases"]) for row in said["figures"]] == [("held_out", 2), ("seen", 2)]
    assert all(isinstance(value, float | int) for row in said["figures"] for value in list(row.values())[3:])
    assert data["curves"] == {"loss": {"kl_per_token": [[2, 0.5]]}}
    assert data["verdict"]["holds"] == (code == 0)
