"""Prompts to images with the miniature models: an image depends on its own request and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from x2i_platform.config import AnswerConfig, GenerateConfig, Recipe
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.prompts import Prompt, Weighted
from x2i_platform.recipes import override

SETTINGS = GenerateConfig(num_inference_steps=2, guidance=3.5, width=64, height=64)
PROMPTS = ("a red circle", "a photo of two small green triangles left of a large blue square", "ring")


def wanted(*seeds: int, **changes: Any) -> list[ImageRequest]:
    settings = SETTINGS.model_copy(update=changes)
    return [ImageRequest(PROMPTS[seed % len(PROMPTS)], seed, settings) for seed in seeds]


def draw(generator: Generator, requests: list[ImageRequest]) -> list[Image.Image]:
    return [made.image for made in generator.generate(requests)]


def difference(left: Image.Image, right: Image.Image) -> int:
    """The largest difference of a pixel, in levels of 255."""
    return int(np.abs(np.asarray(left, dtype=np.int16) - np.asarray(right, dtype=np.int16)).max())


@pytest.mark.parametrize("padding", ["zero", "reference", "none"])
def test_an_image_is_the_same_alone_and_in_a_batch(
    make_model: Callable[..., Path], mini_recipe: Recipe, padding: str
) -> None:
    recipe = override(mini_recipe, [f"alignnet.padding={padding}"])
    generator = Generator.load(make_model(recipe))
    together = draw(generator, wanted(0, 1, 2))
    for seed, image in enumerate(together):
        [alone] = draw(generator, wanted(seed))
        assert difference(alone, image) <= 1
    assert difference(together[0], together[1]) > 20


def test_a_seed_makes_its_image_again_and_another_seed_another(generator: Generator) -> None:
    first, again, other = (draw(generator, [ImageRequest("a", seed, SETTINGS)])[0] for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert difference(first, other) > 20


def test_another_prompt_makes_another_image(generator: Generator) -> None:
    left, right = draw(generator, [ImageRequest(prompt, 5, SETTINGS) for prompt in PROMPTS[:2]])
    assert left.tobytes() != right.tobytes()


def test_a_batch_of_unequal_settings_comes_back_in_order(generator: Generator) -> None:
    requests = [*wanted(0, width=32), *wanted(1), *wanted(2, width=32), *wanted(3, height=96, num_inference_steps=1)]
    images = draw(generator, requests)
    assert [image.size for image in images] == [(32, 64), (64, 64), (32, 64), (64, 96)]
    for request, image in zip(requests, images, strict=True):
        assert difference(draw(generator, [request])[0], image) <= 1
    assert draw(generator, []) == []


def test_threads_do_not_disturb_one_another(generator: Generator) -> None:
    requests = [wanted(seed, num_inference_steps=1 + seed % 3) for seed in range(9)]
    alone = [draw(generator, request)[0].tobytes() for request in requests]
    with ThreadPoolExecutor(3) as threads:
        together = [images[0].tobytes() for images in threads.map(partial(draw, generator), requests)]
    assert together == alone


def test_a_prompt_too_long_for_the_model_is_the_users_mistake(generator: Generator) -> None:
    long = ImageRequest("word " * 300, 1, SETTINGS)
    with pytest.raises(InputError, match="at most 128 fit"):
        draw(generator, [*wanted(0), long])
    assert len(draw(generator, wanted(0))) == 1


def test_an_alignnet_made_for_other_models_is_refused(make_model: Callable[..., Path], mini_recipe: Recipe) -> None:
    with pytest.raises(
        WeightsError, match=r"AlignNet reads 9 layers of width 64, MLLM 'mini:random-qwen2\.5-vl' gives 5"
    ):
        Generator.load(make_model(mini_recipe, num_layers=9))
    with pytest.raises(
        WeightsError, match="AlignNet writes embeds of width 80 and 32, the DiT of 'mini:random-flux' reads 64"
    ):
        Generator.load(make_model(mini_recipe, prompt_dim=80))


def test_a_model_folder_without_a_sound_recipe_is_refused(tmp_path: Path, mini_recipe: Recipe) -> None:
    with pytest.raises(WeightsError, match=r"has no recipe\.json"):
        read_recipe(tmp_path)
    path = tmp_path / "recipe.json"
    text = mini_recipe.model_dump_json()
    for damaged in (text[: len(text) // 2], "[]", text.replace('"model"', '"modle"', 1)):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(WeightsError, match=r"recipe\.json' is not a recipe: "):
            read_recipe(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"recipe\.json' can't be read"):
        read_recipe(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsError, match=r"recipe\.json' can't be read"):
        read_recipe(tmp_path)


def test_a_model_folder_without_weights_is_refused(tmp_path: Path, mini_recipe: Recipe) -> None:
    (tmp_path / "recipe.json").write_text(mini_recipe.model_dump_json(), encoding="utf-8")
    with pytest.raises(WeightsError):
        Generator.load(tmp_path)


def test_the_answer_comes_with_the_image_it_conditioned(generator: Generator) -> None:
    """Both kinds of states of an answer are drawn from one answer, and prompt states have none."""
    by_prompt, by_answer, by_both = (
        generator.generate(wanted(0, states=states))[0] for states in ("prompt", "answer", "both")
    )
    assert by_prompt.answer is None
    [expected] = generator.encoder.mllm.answers(PROMPTS[:1])
    assert by_answer.answer == by_both.answer == expected.text
    pairs = [(by_prompt, by_answer), (by_answer, by_both), (by_both, by_prompt)]
    assert all(difference(left.image, right.image) > 5 for left, right in pairs)


def test_a_drawn_answer_is_the_same_alone_and_in_a_batch(generator: Generator) -> None:
    drawn = AnswerConfig(temperature=1.5, max_tokens=8)
    together = generator.generate(wanted(0, 1, 2, 3, states="answer", answer=drawn))
    for seed, made in enumerate(together):
        [alone] = generator.generate(wanted(seed, states="answer", answer=drawn))
        assert alone.answer == made.answer
        assert difference(alone.image, made.image) <= 1
    assert together[0].answer != together[3].answer, "one prompt, two seeds"


def test_weights_of_media_change_the_image_by_prompt_states_alone(generator: Generator) -> None:
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    plain, mixed = Prompt.of(red, blue), Prompt.of(Weighted(red, 0.3), Weighted(blue, 1.7))
    images = draw(generator, [ImageRequest(prompt, 1, SETTINGS) for prompt in (plain, mixed)])
    assert difference(*images) > 2
    with pytest.raises(InputError, match="states 'answer' are the answer's alone; use 'prompt' or 'both'"):
        generator.generate([ImageRequest(mixed, 1, SETTINGS.model_copy(update={"states": "answer"}))])
