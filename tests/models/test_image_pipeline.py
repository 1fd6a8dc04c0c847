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
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.image_pipeline import ImagePipeline
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
