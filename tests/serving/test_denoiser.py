"""Images in batches: who shares steps, who is told of them, and that nobody pays for another."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.errors import ConfigError, InputError
from x2i_platform.generation.encoder import Encoded
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.serving.denoiser import Denoiser, partial_steps
from x2i_platform.serving.travel import Drawing, Progress

FACTS = {"model": "toy", "version": "models:/toy/1"}


@pytest.fixture(scope="module")
def generator(model_folder: Path) -> Generator:
    return Generator.load(model_folder)


@pytest.fixture
def denoiser(generator: Generator) -> Denoiser:
    return Denoiser(generator.recipe.teacher, device="cpu", max_batch=4)


@pytest.fixture(scope="module")
def settings(mini_recipe: Recipe) -> GenerateConfig:
    return mini_recipe.generate


@pytest.fixture(scope="module")
def encoded(generator: Generator, settings: GenerateConfig) -> Encoded:
    return generator.encoder.encode(["a red circle"], seeds=[0], settings=settings)[0]


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def worst_level(left: Image.Image, right: Image.Image) -> int:
    """The largest difference between two images' pixels, of 255."""
    return int(np.asarray(ImageChops.difference(left.convert("RGB"), right.convert("RGB"))).max())


@contextmanager
def held(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sequence[int]]]:
    """Hold the first batch until the block ends, so that others gather; yields the seeds of each batch."""
    go, batches = threading.Event(), []
    generate = ImagePipeline.generate

    def slow(self: ImagePipeline, *args: Any, seeds: Sequence[int], **others: Any) -> list[Image.Image]:
        batches.append(seeds)
        assert go.wait(30)
        return generate(self, *args, seeds=seeds, **others)

    monkeypatch.setattr(ImagePipeline, "generate", slow)
    try:
        yield batches
    finally:
        go.set()


@pytest.mark.parametrize(
    ("steps", "count", "shown"),
    [
        (28, 3, [2, 10, 19]),
        (6, 2, [2, 4]),
        (5, 3, [2, 3, 4]),
        (4, 3, [1, 2, 3]),
        (3, 1, [2]),
        (2, 1, [1]),
        (2, 5, [1]),
        (1, 3, []),
        (28, 0, []),
        (200, 10, [2, 21, 41, 61, 81, 101, 120, 140, 160, 180]),
    ],
)
def test_partial_images_are_spread_over_the_steps_before_the_last(steps: int, count: int, shown: list[int]) -> None:
    assert partial_steps(steps, count=count) == shown


def test_partial_images_are_as_many_as_asked_for_wherever_there_are_steps() -> None:
    for steps in range(1, 60):
        for count in range(11):
            shown = partial_steps(steps, count=count)
            assert len(set(shown)) == len(shown) == min(count, steps - 1)
            assert shown == sorted(shown)
            assert all(1 <= step < steps for step in shown)


async def test_images_are_the_generators_and_say_how_they_were_made(
    denoiser: Denoiser, generator: Generator, encoded: Encoded, settings: GenerateConfig
) -> None:
    drawings = [Drawing(encoded, seed, settings, prompt="a red circle", facts=FACTS) for seed in (3, 4)]
    drawn = await asyncio.gather(*map(denoiser.draw, drawings))
    expected = generator.generate([ImageRequest("a red circle", seed, settings) for seed in (3, 4)])
    for each, made in zip(drawn, expected, strict=True):
        image = opened(each.image)
        assert worst_level(image, made.image) <= 1
        assert (image.info["prompt"], '"version": "models:/toy/1"' in image.info["x2i"]) == ("a red circle", True)
        assert set(each.seconds) == {"wait", "denoise", "write"}
    assert [each.seed for each in drawn] == [3, 4]


async def test_equal_sizes_steps_and_guidance_share_a_batch(
    denoiser: Denoiser, encoded: Encoded, settings: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = encoded._replace(prompt_embeds_TE=encoded.prompt_embeds_TE.repeat(2, 1))

    def drawing(seed: int, conditioning: Encoded = encoded, **others: Any) -> Drawing:
        return Drawing(conditioning, seed, settings.model_copy(update=others), prompt="a", facts=FACTS)

    wanted = [
        drawing(1),
        drawing(2, width=96),
        drawing(3, num_inference_steps=3),
        drawing(4, guidance=1.0),
        drawing(5, longer),
        drawing(6, states="both"),  # how the conditioning was made is no matter
        drawing(7),
    ]
    with held(denoiser, monkeypatch) as batches:
        tasks = [asyncio.create_task(denoiser.draw(drawing(0)))]
        while not batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(denoiser.draw(each)) for each in wanted]
        await asyncio.sleep(0.01)
    drawn = await asyncio.gather(*tasks)
    assert batches == [[0], [1, 6, 7], [2], [3], [4], [5]]
    assert [each.batch_size for each in drawn] == [1, 3, 1, 1, 1, 1, 3, 3]
    assert opened(drawn[2].image).size == (96, settings.height)


async def test_a_watcher_sees_every_step_but_the_last_and_partial_images_that_come_closer(
    denoiser: Denoiser, encoded: Encoded, settings: GenerateConfig
) -> None:
    slower = settings.model_copy(update={"num_inference_steps": 8})
    drawing = Drawing(encoded, 3, slower, prompt="a", facts=FACTS, output_format="webp", partial_images=3)
    told: list[Progress] = []
    here = threading.get_ident()

    def watch(progress: Progress) -> None:
        assert threading.get_ident() == here, "watchers are called in the event loop"
        told.append(progress)

    drawn = await denoiser.draw(drawing, watcher=watch)
    assert [(each.seed, each.step, each.steps) for each in told] == [(3, step, 8) for step in range(1, 8)]
    partials = [each for each in told if each.partial]
    assert [(each.step, each.index) for each in partials] == [(2, 0), (4, 1), (6, 2)]
    final = opened(drawn.image)
    pictures = [opened(each.partial) for each in partials if each.partial]
    assert {(each.format, each.size) for each in pictures} == {("WEBP", final.size)}
    away = [np.abs(np.asarray(each, "f4") - np.asarray(final, "f4")).mean() for each in pictures]
    assert away == sorted(away, reverse=True)
    assert away[-1] < away[0]


async def test_an_image_cancelled_alone_stops_between_two_steps(
    denoiser: Denoiser, encoded: Encoded, settings: GenerateConfig
) -> None:
    endless = settings.model_copy(update={"num_inference_steps": 200})
    forwards: list[int] = []
    denoiser.images._pipeline.transformer.register_forward_pre_hook(lambda *_: forwards.append(1))
    moving = asyncio.Event()
    drawing = Drawing(encoded, 1, endless, prompt="a", facts=FACTS)
    task = asyncio.create_task(denoiser.draw(drawing, watcher=lambda _: moving.set()))
    await moving.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    quick = await denoiser.draw(Drawing(encoded, 1, settings, prompt="a", facts=FACTS))
    assert len(forwards) < 100, "it didn't go on to the end"
    assert quick.batch_size == 1


async def test_an_image_cancelled_in_company_is_told_nothing_and_disturbs_nobody(
    denoiser: Denoiser, encoded: Encoded, settings: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    slower = settings.model_copy(update={"num_inference_steps": 20})
    drawings = [Drawing(encoded, seed, slower, prompt="a", facts=FACTS) for seed in range(3)]
    told: list[list[int]] = [[], [], []]
    with held(denoiser, monkeypatch) as batches:
        first = asyncio.create_task(denoiser.draw(drawings[0]))
        while not batches:
            await asyncio.sleep(0.001)
        tasks = [
            asyncio.create_task(denoiser.draw(each, watcher=lambda step: told[step.seed].append(step.step)))
            for each in drawings
        ]
        await asyncio.sleep(0.01)
    while not told[1]:
        await asyncio.sleep(0.001)
    tasks[1].cancel()
    drawn = await asyncio.gather(first, tasks[0], tasks[2])
    assert tasks[1].cancelled()
    assert [list(each) for each in batches] == [[0], [0, 1, 2]]
    assert told[0] == told[2] == list(range(1, 20))
    assert len(told[1]) < 19
    assert worst_level(opened(drawn[0].image), opened(drawn[1].image)) <= 1


def refuses_odd(image: Image.Image, how: Mapping[str, Any]) -> Image.Image:
    """A safety checker that refuses odd seeds, and marks the others with a red dot."""
    if how["seed"] % 2:
        raise InputError(f"an image of {how['prompt']!r} by {how['version']} is not shown")
    marked = image.copy()
    marked.putpixel((0, 0), (255, 0, 0))
    return marked


async def test_every_image_is_finished_also_partial_ones_and_a_refusal_is_its_own(
    generator: Generator, encoded: Encoded, settings: GenerateConfig
) -> None:
    denoiser = Denoiser(generator.recipe.teacher, device="cpu", max_batch=4, finish=refuses_odd)
    slower = settings.model_copy(update={"num_inference_steps": 6})
    told: list[Progress] = []
    drawings = [Drawing(encoded, seed, slower, prompt="a", facts=FACTS, partial_images=2) for seed in range(3)]
    drawn = await asyncio.gather(
        *(denoiser.draw(each, watcher=told.append) for each in drawings), return_exceptions=True
    )
    assert isinstance(drawn[1], InputError)
    assert str(drawn[1]) == "an image of 'a' by models:/toy/1 is not shown"
    partials = {seed: [each.partial for each in told if each.seed == seed and each.partial] for seed in range(3)}
    assert [len(partials[seed]) for seed in range(3)] == [2, 0, 2]
    shown = [each.image for each in (drawn[0], drawn[2]) if not isinstance(each, BaseException)]
    for content in (*shown, *partials[0], *partials[2]):
        assert opened(content).getpixel((0, 0)) == (255, 0, 0)


async def test_a_size_that_the_models_cannot_draw_fails_alone(
    denoiser: Denoiser, encoded: Encoded, settings: GenerateConfig
) -> None:
    odd = settings.model_copy(update={"width": 40})
    bad, good = await asyncio.gather(
        denoiser.draw(Drawing(encoded, 1, odd, prompt="a", facts=FACTS)),
        denoiser.draw(Drawing(encoded, 1, settings, prompt="a", facts=FACTS)),
        return_exceptions=True,
    )
    assert isinstance(bad, ConfigError)
    assert not isinstance(good, BaseException)
    assert opened(good.image).size == (settings.width, settings.height)


def test_it_can_be_warmed_before_any_prompt(denoiser: Denoiser, mini_recipe: Recipe) -> None:
    dims = dit_dims(mini_recipe.teacher.model, revision=mini_recipe.teacher.revision)
    denoiser.warm(mini_recipe.generate, dims=dims, text_tokens=mini_recipe.teacher.text_tokens)
    assert denoiser.images._pipeline.num_timesteps == 1, "it drew, in one step"
