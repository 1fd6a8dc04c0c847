"""The trained miniatures that ship: whole, small, as their manifest says, and as good as they were."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines import RECIPES
from x2i_platform.config import States
from x2i_platform.evaluation.evaluator import BaselineGenerator
from x2i_platform.evaluation.tasks import Task, suite_tasks
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.mini import captions_path
from x2i_platform.mini.checkpoints import MANIFEST, digests, trained_folder
from x2i_platform.mini.judge import judge
from x2i_platform.mini.languages import LANGUAGES, describe, phrasings
from x2i_platform.mini.scenes import CATEGORIES, canonical, scenes
from x2i_platform.mini.training import pack
from x2i_platform.mini.training.corpus import distillation_captions
from x2i_platform.mini.training.omni import thinker_weights
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load, override
from x2i_platform.registry.models import resolve

MAX_BYTES = 25 * 10**6
WITH_EARS = "mllm.model=mini:qwen2.5-omni"


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator.load(resolve("mini:alignnet", tracking_uri=""))


@pytest.fixture(scope="module")
def mllm() -> MLLM:
    return MLLM.load(load("mini", shipped=RECIPES).mllm)


@pytest.fixture(scope="module")
def omni() -> MLLM:
    return MLLM.load(load("mini", shipped=RECIPES, overrides=[WITH_EARS]).mllm)


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
    assert len(manifest["sha256"]) == 7, "DiT, T5, CLIP, VAE, two MLLMs, AlignNet"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".txt", ".model"}
    parts = {**pack.PARTS, **pack.AUDIO_PARTS}
    made = {name: (part["seed"], part["steps"]) for name, part in manifest["parts"].items()}
    assert made == {name: (seed, schedule.steps) for name, (seed, schedule) in parts.items()}
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
    assert right_answers(mllm, suite=suite, count=25) >= 24


@pytest.mark.parametrize(
    ("suite", "least"), [("english", 50), ("japanese", 50), ("image", 48), ("video", 48), ("audio", 45)]
)
def test_the_one_with_ears_says_the_same_and_to_spoken_captions_too(suite: str, least: int, omni: MLLM) -> None:
    """Of recordings 93 % of 400 were right."""
    assert right_answers(omni, suite=suite, count=50) >= least


def right_answers(mllm: MLLM, *, suite: str, count: int) -> int:
    """How many held-out cases are answered with the scene's description."""
    tasks = suite_tasks((suite,), count=count, splits=("held_out",), states=("answer",))
    said = mllm.answers([task.prompt for task in tasks])
    return sum(
        answer.text == describe(canonical(task.scene))
        for answer, task in zip(said, tasks, strict=True)
        if task.scene is not None
    )


def test_the_one_with_ears_has_the_very_weights_of_the_other() -> None:
    ours, theirs = (load_file(trained_folder() / name / "model.safetensors") for name in (pack.OMNI, pack.QWEN))
    ears = {name for name in ours if name.startswith("audio_tower.")}
    same = thinker_weights(theirs)
    assert set(ours) == set(same) | ears and ears
    for name, weight in same.items():
        assert torch.equal(ours[name][: len(weight)], weight), name
        assert len(ours[name]) - len(weight) in (0, 3), "the tokens of sound"


@pytest.mark.parametrize(("suite", "states", "least"), [("english", "answer", 0.9)])
def test_what_ships_is_as_good_as_it_was(generator: Generator, suite: str, states: States, least: float) -> None:
    tasks = suite_tasks((suite,), count=100, splits=("held_out",), states=(states,))
    teacher = BaselineGenerator(generator, other=None, device="cpu").draw(tasks)
    theirs = sum(
        judge(image, task.scene).right for task, image in zip(tasks, teacher, strict=True) if task.scene
    ) / len(tasks)
    assert theirs >= least
    assert right(generator, tasks) >= theirs - 0.04


def test_the_shipped_alignnet_draws_spoken_captions_it_was_not_trained_for() -> None:
    folder = resolve("mini:alignnet", tracking_uri="")
    hearing = Generator.load(folder, recipe=override(read_recipe(folder), [WITH_EARS]))
    tasks = suite_tasks(("audio",), count=100, splits=("held_out",), states=("answer",))
    assert right(hearing, tasks) >= 0.8, "85.5 % of 400"
