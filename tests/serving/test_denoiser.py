"""One replica's DiT: what is drawn together, what is shown of it, and who can end it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from x2i_platform.config import GenerateConfig
from x2i_platform.errors import ConfigError, InputError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.serving.denoiser import Denoiser, partial_steps
from x2i_platform.serving.travel import Drawing, Progress

FACTS = {"model": "m", "version": "models:/m/1", "digest": "0123"}


@pytest.fixture(scope="module")
def generator(model_folder: Path) -> Generator:
    return Generator.load(model_folder)


def denoiser_of(generator: Generator, **options: Any) -> Denoiser:
    return Denoiser(generator.recipe.teacher, device="cpu", max_batch=4, **options)


def drawing(generator: Generator, seed: int, *, prompt: str = "a red circle", **changes: Any) -> Drawing:
    settings = generator.recipe.generate.model_copy(update=changes)
    [encoded] = generator.encoder.encode([prompt], seeds=[seed], settings=settings)
    return Drawing(encoded, seed, settings, prompt=prompt, facts=FACTS)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (8, 3, [2, 4, 6]),
        (28, 3, [2, 10, 19]),
        (4, 3, [1, 2, 3]),
        (4, 10, [1, 2, 3]),
        (2, 1, [1]),
        (2, 3, [1]),
        (1, 3, []),
        (8, 0, []),
        (3, 1, [2]),
    ],
)
def test_partial_images_are_spread_evenly_and_never_the_last(steps: int, count: int, expected: list[int]) -> None:
    assert partial_steps(steps, count=count) == expected


async def test_equal_settings_share_a_batch_and_every_image_is_the_generators(generator: Generator) -> None:
    denoiser = denoiser_of(generator)
    wanted = [drawing(generator, seed) for seed in range(4)] + [drawing(generator, 9, width=32)]
    drawn = await asyncio.gather(*(denoiser.draw(each) for each in wanted))
    assert [each.batch_size for each in drawn] == [4, 4, 4, 4, 1]
    for each, asked in zip(drawn, wanted, strict=True):
        [expected] = generator.generate([ImageRequest("a red circle", asked.seed, asked.settings)])
        with opened(each.image) as image:
            assert int(np.asarray(ImageChops.difference(image, expected.image)).max()) <= 1
            assert json.loads(image.info["x2i"]).items() >= {**FACTS, "seed": asked.seed}.items()
        assert set(each.seconds) == {"wait", "denoise", "write"}


async def test_a_watcher_sees_every_step_and_the_partial_images(generator: Generator) -> None:
    seen: list[Progress] = []
    asked = replace(drawing(generator, 1, num_inference_steps=6), partial_images=2, output_format="jpeg")
    drawn = await denoiser_of(generator).draw(asked, watcher=seen.append)
    assert [(each.step, each.steps, each.seed) for each in seen] == [(step, 6, 1) for step in range(1, 6)]
    partial = {each.index: each for each in seen if each.partial is not None}
    assert [partial[index].step for index in (0, 1)] == [2, 4]
    assert [opened(each.partial or b"").format for each in partial.values()] == ["JPEG", "JPEG"]
    assert opened(drawn.image).format == "JPEG"


async def test_a_cancelled_image_stops_between_steps_and_the_next_is_drawn(generator: Generator) -> None:
    denoiser, steps = denoiser_of(generator), list[int]()
    long = drawing(generator, 1, num_inference_steps=500)
    work = asyncio.create_task(denoiser.draw(long, watcher=lambda progress: steps.append(progress.step)))
    while len(steps) < 3:
        await asyncio.sleep(0.005)
    work.cancel()
    done = await asyncio.wait_for(denoiser.draw(drawing(generator, 2)), 20)
    assert done.seed == 2
    assert work.cancelled()
    assert steps[-1] < 400


async def test_a_cancelled_image_does_not_disturb_those_beside_it(generator: Generator) -> None:
    denoiser = denoiser_of(generator)
    first = asyncio.create_task(denoiser.draw(drawing(generator, 0)))
    await asyncio.sleep(0)
    together = [asyncio.create_task(denoiser.draw(drawing(generator, seed))) for seed in (1, 2)]
    await first
    together[0].cancel()
    assert (await together[1]).seed == 2


async def test_a_finish_sees_how_an_image_was_made_and_may_refuse_it_alone(generator: Generator) -> None:
    seen: list[Mapping[str, Any]] = []

    def finish(image: Image.Image, how: Mapping[str, Any]) -> Image.Image:
        seen.append(how)
        if how["seed"] == 2:
            raise InputError("this image is not sent")
        return Image.new("RGB", image.size, "red")

    denoiser = denoiser_of(generator, finish=finish)
    results = await asyncio.gather(
        *(denoiser.draw(drawing(generator, seed)) for seed in (1, 2, 3)), return_exceptions=True
    )
    assert str(results[1]) == "this image is not sent"
    assert opened(results[0].image).getpixel((0, 0)) == (255, 0, 0)  # type: ignore[union-attr]
    assert {"prompt", "seed", "version", "width"} <= set(seen[0])


async def test_a_size_that_cannot_be_drawn_fails_its_own_image_alone(generator: Generator) -> None:
    denoiser = denoiser_of(generator)
    wrong = replace(drawing(generator, 1), settings=GenerateConfig.model_construct(**{
        **generator.recipe.generate.model_dump(), "width": 72,
    }))  # fmt: skip
    results = await asyncio.gather(denoiser.draw(wrong), denoiser.draw(drawing(generator, 2)), return_exceptions=True)
    assert isinstance(results[0], ConfigError)
    assert not isinstance(results[1], BaseException)
