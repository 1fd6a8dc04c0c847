from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import GenerateConfig, TeacherConfig
from x2i_platform.errors import ConfigError
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.image_pipeline import ImagePipeline, Preview
from x2i_platform.models.text_encoders import TextEncoders

SETTINGS = GenerateConfig(num_inference_steps=2, width=64, height=64)
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def pipeline(teacher_config: TeacherConfig) -> ImagePipeline:
    return ImagePipeline.load(teacher_config)


@pytest.fixture(scope="module")
def encoded(text_encoders: TextEncoders) -> Conditioning:
    return text_encoders.encode(THREE_CAPTIONS)


def draw(
    pipeline: ImagePipeline, encoded: Conditioning, *, seeds: list[int], settings: GenerateConfig = SETTINGS
) -> list[Image.Image]:
    rows = slice(len(seeds))
    return pipeline.generate(
        encoded.prompt_embeds_BTE[rows], pooled_BP=encoded.pooled_BP[rows], seeds=seeds, settings=settings
    )


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_draws_what_the_stock_pipeline_draws(
    pipeline: ImagePipeline, encoded: Conditioning, flux_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = draw(pipeline, encoded, seeds=SEEDS)
    assert capsys.readouterr().err == ""
    stock = diffusers.FluxPipeline.from_pretrained(flux_folder)
    theirs = stock(
        THREE_CAPTIONS,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        width=64,
        height=64,
        num_inference_steps=2,
        max_sequence_length=32,
    ).images
    assert np.array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 48)])
def test_images_are_rgb_of_the_asked_size(
    pipeline: ImagePipeline, encoded: Conditioning, width: int, height: int
) -> None:
    settings = SETTINGS.model_copy(update={"width": width, "height": height})
    images = draw(pipeline, encoded, seeds=[1, 2], settings=settings)
    assert [(image.mode, image.size) for image in images] == [("RGB", (width, height))] * 2


def test_seeds_decide_and_the_batch_does_not(pipeline: ImagePipeline, encoded: Conditioning) -> None:
    together = pixels(draw(pipeline, encoded, seeds=SEEDS))
    assert np.array_equal(together, pixels(draw(pipeline, encoded, seeds=SEEDS)))
    alone = pixels(draw(pipeline, encoded, seeds=SEEDS[:1]))
    assert np.abs(alone[0] - together[0]).max() <= 1
    other = pixels(draw(pipeline, encoded, seeds=[8]))
    assert np.abs(other[0] - alone[0]).mean() > 5


def test_any_number_of_text_tokens(pipeline: ImagePipeline) -> None:
    images = pipeline.generate(torch.randn(1, 5, 64), pooled_BP=torch.randn(1, 32), seeds=[0], settings=SETTINGS)
    assert images[0].size == (64, 64)


def test_a_size_the_model_cannot_draw_is_refused(pipeline: ImagePipeline, encoded: Conditioning) -> None:
    settings = SETTINGS.model_copy(update={"width": 72})
    with pytest.raises(ConfigError, match="size 72x64: this model draws multiples of 16 pixels"):
        draw(pipeline, encoded, seeds=[1], settings=settings)


def test_previews_approach_the_image_and_change_nothing(pipeline: ImagePipeline, encoded: Conditioning) -> None:
    settings = SETTINGS.model_copy(update={"num_inference_steps": 6, "width": 96})
    steps: list[tuple[int, int]] = []
    previews: list[Image.Image] = []

    def watch(step: int, count: int, preview: Preview) -> None:
        steps.append((step, count))
        previews.append(preview(1))

    rows = Conditioning(*(each[:2] for each in encoded))
    images = pipeline.generate(*rows[:1], pooled_BP=rows.pooled_BP, seeds=[5, 6], settings=settings, on_step=watch)
    assert steps == [(step, 6) for step in range(1, 6)]
    assert np.array_equal(pixels(images), pixels(draw(pipeline, rows, seeds=[5, 6], settings=settings)))
    assert {preview.size for preview in previews} == {(96, 64)}
    distances = [np.abs(pixels([preview]) - pixels(images[1:])).mean() for preview in previews]
    assert distances[-1] < 0.5 * distances[0]
    assert distances[-1] < 4


def test_a_watcher_may_end_the_batch(pipeline: ImagePipeline, encoded: Conditioning) -> None:
    def stop(step: int, count: int, preview: Preview) -> None:
        raise InterruptedError(step)

    settings = SETTINGS.model_copy(update={"num_inference_steps": 50})
    with pytest.raises(InterruptedError, match="1"):
        pipeline.generate(
            encoded.prompt_embeds_BTE, pooled_BP=encoded.pooled_BP, seeds=SEEDS, settings=settings, on_step=stop
        )
    assert len(draw(pipeline, encoded, seeds=SEEDS)) == 3


def test_previews_of_latents_that_are_images() -> None:
    """Stable Diffusion 3.5 doesn't pack its latents."""
    config = TeacherConfig(model="mini:random-sd3", dtype="float32", text_tokens=40, clip_tokens=32, resolution=64)
    pipeline, dims = ImagePipeline.load(config), dit_dims("mini:random-sd3")
    previews: list[Image.Image] = []
    [image] = pipeline.generate(
        torch.randn(1, 5, dims.joint_dim),
        pooled_BP=torch.randn(1, dims.pooled_dim),
        seeds=[3],
        settings=SETTINGS.model_copy(update={"num_inference_steps": 4, "guidance": 1.0}),
        on_step=lambda step, count, preview: previews.append(preview(0)),
    )
    assert len(previews) == 3
    assert np.abs(pixels(previews[-1:]) - pixels([image])).mean() < 4
