"""Stable Diffusion 3 as a teacher, against diffusers' own pipeline: one step, attention, conditioning, images."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import Dtype, GenerateConfig, TeacherConfig
from x2i_platform.errors import ConfigError, WeightsError
from x2i_platform.models.components import DTYPES
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.taps import Tap, attention_taps, select_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders

SEEDS = [3, 2**40 + 1]
SETTINGS = GenerateConfig(num_inference_steps=2, width=64, height=64, guidance=1.0)
GUIDED = SETTINGS.model_copy(update={"guidance": 4.5})
NAMES = (
    *("double.0.image", "double.0.text", "double.0.image2"),
    *("double.1.image", "double.1.text"),
    "double.2.image",  # the last block's text goes nowhere
)


def stock_pipeline(folder: Path, *, dtype: Dtype = "float32") -> Any:
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(folder, torch_dtype=DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_conditioning(teacher: Teacher) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    prompt_embeds_BTE = torch.randn(2, teacher.num_text_tokens, teacher.joint_dim, generator=generator)
    pooled_BP = torch.randn(2, teacher.pooled_dim, generator=generator)
    return prompt_embeds_BTE.requires_grad_(), pooled_BP.requires_grad_()


def run(teacher: Teacher, conditioning: tuple[Tensor, Tensor]) -> Tensor:
    prompt_embeds_BTE, pooled_BP = conditioning
    latents_BNC, sigma_B = teacher.noise(SEEDS), teacher.sigmas(SEEDS)
    return teacher.forward(prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=latents_BNC, sigma_B=sigma_B)


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_sizes_are_the_miniatures(sd3: Teacher) -> None:
    assert (sd3.num_image_tokens, sd3.num_text_tokens) == (16, 109)
    assert (sd3.inner_dim, sd3.joint_dim, sd3.pooled_dim) == (96, 64, 48)
    assert sd3.tap_names == NAMES
    assert not any(parameter.requires_grad for parameter in sd3.dit.parameters())


def test_noise_is_what_the_pipeline_draws(sd3: Teacher, sd3_folder: Path) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    pipeline = stock_pipeline(sd3_folder)
    expected_BcHW = pipeline.prepare_latents(2, 16, 64, 64, torch.float32, torch.device("cpu"), generators)
    assert expected_BcHW.shape == (2, 16, 8, 8)
    assert torch.equal(sd3.noise(SEEDS), diffusers.FluxPipeline._pack_latents(expected_BcHW, 2, 16, 8, 8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_is_one_step_of_the_pipeline(sd3_config: TeacherConfig, sd3_folder: Path, dtype: Dtype) -> None:
    teacher = Teacher.load(sd3_config.model_copy(update={"dtype": dtype}))
    pipeline = stock_pipeline(sd3_folder, dtype=dtype)
    prompt_embeds, pooled = (tensor.detach().to(DTYPES[dtype]) for tensor in random_conditioning(teacher))
    calls: list[tuple[dict[str, Any], Tensor]] = []
    for dit in (pipeline.transformer, teacher.dit):
        dit.register_forward_hook(lambda _m, _a, kwargs, out: calls.append((kwargs, out[0])), with_kwargs=True)
    pipeline(
        prompt_embeds=prompt_embeds,
        pooled_prompt_embeds=pooled,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        height=64,
        width=64,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
    )
    theirs, velocity_BcHW = calls.pop()
    with torch.no_grad():
        velocity_BNC = teacher.forward(
            prompt_embeds,
            pooled_BP=pooled,
            # The pipeline draws its noise in the model's dtype.
            latents_BNC=diffusers.FluxPipeline._pack_latents(theirs["hidden_states"], 2, 16, 8, 8),
            sigma_B=teacher.sigmas(SEEDS),
        )
    ours, _ = calls.pop()
    assert theirs.pop("joint_attention_kwargs") is None
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert not isinstance(value, Tensor) or value.dtype == theirs[name].dtype, name
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name
    assert ours["timestep"].tolist() == [1000, 1000]
    assert torch.equal(velocity_BNC, diffusers.FluxPipeline._pack_latents(velocity_BcHW, 2, 16, 8, 8))


def test_values_are_those_at_the_output_projections(sd3: Teacher) -> None:
    expected: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for index, block in enumerate(sd3.dit.transformer_blocks):
            layers = {"image": block.attn.to_out[0]}
            if not block.context_pre_only:
                layers["text"] = block.attn.to_add_out
            if block.attn2 is not None:
                layers["image2"] = block.attn2.to_out[0]
            for stream, layer in layers.items():
                name = f"double.{index}.{stream}"
                hook = layer.register_forward_hook(lambda _m, _a, out, name=name: expected.update({name: out}))
                hooks.callback(hook.remove)
        with attention_taps(sd3.dit, sd3.tap_names) as taps:
            run(sd3, random_conditioning(sd3))
    assert list(taps) == list(NAMES)
    assert expected.keys() == taps.keys()
    for name, tap in taps.items():
        assert torch.equal(tap, expected[name]), name
        tokens = Tap.named(name).num_tokens(text=109, image=16)
        assert tap.shape == (2, tokens, 96)
    assert select_taps(NAMES, "double") == NAMES


def test_gradients_reach_the_conditioning_and_are_equal_under_checkpointing(sd3: Teacher) -> None:
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            sd3.enable_gradient_checkpointing()
        conditioning = random_conditioning(sd3)
        with attention_taps(sd3.dit, NAMES) as taps:
            run(sd3, conditioning)
            kept = list(taps.values())
        torch.stack([tap.square().mean() for tap in kept]).sum().backward()
        found.append([tensor.grad for tensor in conditioning])
    for plain, recomputed in zip(*found, strict=True):
        assert plain is not None
        assert plain.abs().max() > 0
        assert recomputed is not None
        assert torch.equal(plain, recomputed)


def test_encodes_exactly_as_the_whole_pipeline(sd3_encoders: TextEncoders, sd3_folder: Path) -> None:
    captions = [*THREE_CAPTIONS, "what a circle!", ""]
    with torch.no_grad():
        prompt_embeds, _, pooled, _ = stock_pipeline(sd3_folder).encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, max_sequence_length=32
        )
    ours = sd3_encoders.encode(captions)
    assert ours.prompt_embeds_BTE.shape == (5, 77 + 32, 64)
    assert ours.pooled_BP.shape == (5, 16 + 32)
    assert torch.equal(ours.prompt_embeds_BTE, prompt_embeds)
    assert torch.equal(ours.pooled_BP, pooled)
    # The CLIPs' positions are padded from 16 + 32 to T5's width with zeros; T5's positions are not.
    assert (ours.prompt_embeds_BTE[:, :77, 48:] == 0).all()
    assert (ours.prompt_embeds_BTE[:, 77:, 48:] != 0).any()


def test_special_tokens_of_captions_are_text(sd3_encoders: TextEncoders) -> None:
    """Each encoder reads its own special tokens as words: T5 `</s>`, both CLIPs `<|endoftext|>`."""
    control, plain = sd3_encoders.encode(["a </s> star", "a < /s> star"]).prompt_embeds_BTE
    assert torch.equal(control[77:], plain[77:])
    found = sd3_encoders.encode(["a <|endoftext|> star", "a < |endoftext|> star"])
    assert torch.equal(found.prompt_embeds_BTE[0, :77], found.prompt_embeds_BTE[1, :77])
    assert torch.equal(found.pooled_BP[0], found.pooled_BP[1])


def test_long_captions_are_cut_and_counted_by_t5(sd3_encoders: TextEncoders) -> None:
    assert sd3_encoders.t5_tokens == 32
    assert sd3_encoders.num_tokens("a red circle " * 50) > 32
    assert sd3_encoders.encode(["a red circle " * 50]).prompt_embeds_BTE.isfinite().all()


def test_text_without_room_for_t5_is_refused(sd3_config: TeacherConfig) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.text_tokens = 77 leaves T5 no token .* reads 333"):
        TextEncoders.load(sd3_config.model_copy(update={"text_tokens": 77}))


@pytest.fixture(scope="module")
def images(sd3_config: TeacherConfig) -> ImagePipeline:
    return ImagePipeline.load(sd3_config)


@pytest.fixture(scope="module")
def encoded(sd3_encoders: TextEncoders) -> Conditioning:
    return sd3_encoders.encode(THREE_CAPTIONS)


def draw(
    images: ImagePipeline, encoded: Conditioning, *, rows: list[int], settings: GenerateConfig = SETTINGS
) -> list[Image.Image]:
    embeds, pooled = encoded.prompt_embeds_BTE[rows], encoded.pooled_BP[rows]
    return images.generate(embeds, pooled_BP=pooled, seeds=[5 + row for row in rows], settings=settings)


@pytest.mark.parametrize(("settings", "captions"), [(SETTINGS, THREE_CAPTIONS), (GUIDED, THREE_CAPTIONS[1:2])])
def test_draws_what_the_stock_pipeline_draws(
    images: ImagePipeline,
    sd3_encoders: TextEncoders,
    sd3_folder: Path,
    settings: GenerateConfig,
    captions: list[str],
) -> None:
    """Guided alone: the stock pipeline encodes the empty prompt once a caption, and in a batch its last bits differ."""
    seeds = range(5, 5 + len(captions))
    theirs = stock_pipeline(sd3_folder)(
        captions,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=settings.guidance,
        max_sequence_length=32,
    ).images
    prompt_embeds_BTE, pooled_BP = sd3_encoders.encode(captions)
    ours = images.generate(prompt_embeds_BTE, pooled_BP=pooled_BP, seeds=seeds, settings=settings)
    assert np.array_equal(pixels(ours), pixels(theirs))


def test_guidance_changes_images_and_half_guidance_is_none(images: ImagePipeline, encoded: Conditioning) -> None:
    plain, half, guided = (
        pixels(draw(images, encoded, rows=[0], settings=SETTINGS.model_copy(update={"guidance": guidance})))
        for guidance in (1.0, 0.5, 4.5)
    )
    assert np.array_equal(plain, half)
    assert np.abs(plain - guided).mean() > 5


def test_guidance_of_a_pipeline_without_a_folder_is_refused(images: ImagePipeline, encoded: Conditioning) -> None:
    with pytest.raises(ConfigError, match=r"needs the pipeline's text encoders; use generate\.guidance=1"):
        draw(ImagePipeline(images._pipeline), encoded, rows=[0], settings=GUIDED)


@pytest.mark.parametrize("settings", [SETTINGS, GUIDED], ids=["plain", "guided"])
def test_seeds_decide_and_the_batch_does_not(
    images: ImagePipeline, encoded: Conditioning, settings: GenerateConfig
) -> None:
    together = pixels(draw(images, encoded, rows=[0, 1, 2], settings=settings))
    for row in range(3):
        alone = pixels(draw(images, encoded, rows=[row], settings=settings))
        assert np.abs(alone[0] - together[row]).max() <= 1
    same_words = images.generate(
        encoded.prompt_embeds_BTE[[0, 0]], pooled_BP=encoded.pooled_BP[[0, 0]], seeds=[1, 2], settings=settings
    )
    assert np.abs(np.diff(pixels(same_words), axis=0)).mean() > 5


@pytest.mark.parametrize("num_text", [5, 300])
@pytest.mark.parametrize("settings", [SETTINGS, GUIDED], ids=["plain", "guided"])
def test_any_number_of_text_tokens(images: ImagePipeline, num_text: int, settings: GenerateConfig) -> None:
    [image] = images.generate(torch.randn(1, num_text, 64), pooled_BP=torch.randn(1, 48), seeds=[0], settings=settings)
    assert image.size == (64, 64)


def test_a_canvas_beyond_the_table_of_positions_is_refused(
    sd3: Teacher, images: ImagePipeline, encoded: Conditioning, sd3_config: TeacherConfig
) -> None:
    with pytest.raises(ConfigError, match="resolution 272 is above this model's 256"):
        Teacher(sd3.dit, config=sd3_config.model_copy(update={"resolution": 272}), latent_scale=8)
    with pytest.raises(ConfigError, match="size 64x272: this model draws up to 256 pixels"):
        draw(images, encoded, rows=[0], settings=SETTINGS.model_copy(update={"height": 272}))
    wide = SETTINGS.model_copy(update={"width": 256, "num_inference_steps": 1})
    assert draw(images, encoded, rows=[0], settings=wide)[0].size == (256, 64)


def test_a_pipeline_of_an_unknown_kind_is_refused(sd3_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd3_folder, tmp_path / "other"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "transformer": ["diffusers", "PixArtTransformer2D"]}))
    config = TeacherConfig(model=str(folder), dtype="float32", text_tokens=109, resolution=64)
    for kind in (Teacher, TextEncoders, ImagePipeline):
        with pytest.raises(WeightsError, match="holds a PixArtTransformer2D; a teacher's DiT is one of FluxTr"):
            kind.load(config)
    del index["transformer"]
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(WeightsError, match="holds a StableDiffusionXLPipeline; a teacher's DiT is one of FluxTr"):
        Teacher.load(config)
