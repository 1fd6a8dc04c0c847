"""The trained miniatures that ship: whole, small, as their manifest says, and as good as they were."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
from PIL import Image

from pipelines import RECIPES
from x2i_platform.config import States
from x2i_platform.evaluation.evaluator import BaselineGenerator
from x2i_platform.evaluation.tasks import Task, suite_tasks
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.media.clips import Video
from x2i_platform.mini import captions_path
from x2i_platform.mini.checkpoints import MANIFEST, digests, trained_folder
from x2i_platform.mini.judge import judge
from x2i_platform.mini.languages import LANGUAGES, describe, phrasings
from x2i_platform.mini.scenes import CATEGORIES, canonical, scenes
from x2i_platform.mini.suites import Case, cases
from x2i_platform.mini.training import pack
from x2i_platform.mini.training.corpus import distillation_captions
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompts import Prompt
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load
from x2i_platform.registry.models import resolve

MAX_BYTES = 25 * 10**6


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator.load(resolve("mini:alignnet", tracking_uri=""))


@pytest.fixture(scope="module")
def mllm() -> MLLM:
    return MLLM.load(load("mini", shipped=RECIPES).mllm)


def right(generator: Generator, tasks: list[Task]) -> float:
    """Share of the student's images that the judge accepts."""
    drawn = generator.generate([ImageRequest(t.prompt, t.seed, generator.recipe.generate) for t in tasks])
    return share_right([each.image for each in drawn], tasks)


def share_right(images: Sequence[Image.Image], tasks: Sequence[Task]) -> float:
    verdicts = [judge(image, task.scene).right for task, image in zip(tasks, images, strict=True) if task.scene]
    return sum(verdicts) / len(tasks)


def test_the_manifest_is_of_these_files_and_all_are_small() -> None:
    folder = trained_folder()
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert manifest["sha256"] == digests(folder)
    assert len(manifest["sha256"]) == 6, "DiT, T5, CLIP, VAE, MLLM, AlignNet"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".txt", ".model"}
    made = {name: (part["seed"], part["steps"]) for name, part in manifest["parts"].items()}
    assert made == {name: (seed, schedule.steps) for name, (seed, schedule) in pack.PARTS.items()}
    assert manifest["accuracy"]["english, held_out, answer states"]["scenes"] >= 1000


def test_the_captions_are_those_of_the_training_scenes_and_tell_nothing_held_out() -> None:
    captions = captions_path().read_text("utf-8").splitlines()
    assert captions == distillation_captions()
    held_out = [one for category in CATEGORIES for one in islice(scenes(category, held_out=True, seed=5), 1000)]
    assert not {text for one in held_out for text in phrasings(one, language="english")} & set(captions)


def test_they_load_with_no_network_and_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("X2I_CACHE", str(tmp_path))
    recipe = load("mini", shipped=RECIPES)
    for kind in (TextEncoders, ImagePipeline):
        kind.load(recipe.teacher)
    assert MLLM.load(recipe.mllm).answers(["ein roter Kreis"])[0].text == "a red circle"
    assert not list(tmp_path.iterdir())


def test_captions_fit_the_teachers_text() -> None:
    encoders = TextEncoders.load(load("mini", shipped=RECIPES).teacher)
    assert max(map(encoders.num_tokens, captions_path().read_text("utf-8").splitlines())) <= 24


def test_the_recipes_of_the_miniature_are_of_these_models(generator: Generator) -> None:
    for name in ("mini", "mini-full", "mini-reference"):
        recipe = load(name, shipped=RECIPES)
        assert (recipe.teacher.model, recipe.mllm.model) == ("mini:flux", "mini:qwen2.5-vl")
    assert generator.recipe.name == "mini-full"
    assert generator.recipe == load("mini-full", shipped=RECIPES), "train it anew after a change of its recipe"


@pytest.mark.parametrize("suite", [*LANGUAGES, "image", "video"])
def test_the_mllm_says_it_in_plain_english_whatever_it_is_told_or_shown(suite: str, mllm: MLLM) -> None:
    chosen = list(islice(cases(suite, held_out=True), 25))
    said = mllm.answers([prompt_of(case) for case in chosen])
    wanted = [describe(canonical(case.scene)) for case in chosen]
    assert sum(answer.text == text for answer, text in zip(said, wanted, strict=True)) >= 24


def prompt_of(case: Case) -> str | Prompt:
    if case.text is not None:
        return case.text
    return Prompt.of(case.images[0] if len(case.images) == 1 else Video(case.images))


@pytest.mark.parametrize(("suite", "states", "least"), [("english", "answer", 0.9)])
def test_what_ships_is_as_good_as_it_was(generator: Generator, suite: str, states: States, least: float) -> None:
    tasks = suite_tasks((suite,), count=100, splits=("held_out",), states=(states,))
    teacher = BaselineGenerator(generator, other=None, device="cpu").draw(tasks)
    theirs = sum(
        judge(image, task.scene).right for task, image in zip(tasks, teacher, strict=True) if task.scene
    ) / len(tasks)
    assert theirs >= least
    assert right(generator, tasks) >= theirs - 0.04
