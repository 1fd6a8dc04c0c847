from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from x2i_platform.config import Dtype, TeacherConfig
from x2i_platform.errors import ConfigError, WeightsError
from x2i_platform.models.components import DTYPES
from x2i_platform.models.teacher import Teacher

SEEDS = [3, 2**40 + 1]


def stock_pipeline(folder: Path, *, dtype: Dtype = "float32") -> Any:
    pipeline = diffusers.FluxPipeline.from_pretrained(folder, torch_dtype=DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def observe(dit: Any) -> tuple[dict[str, Any], Any]:
    """The arguments and the output of the next call of `dit`, and the hook's handle."""
    seen: dict[str, Any] = {}
    return seen, dit.register_forward_hook(
        lambda _m, _a, kwargs, out: seen.update(kwargs, out=out[0]), with_kwargs=True
    )


def conditioning(teacher: Teacher) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 32, teacher.joint_dim), torch.randn(2, teacher.pooled_dim)


def test_sizes_are_the_miniatures(teacher: Teacher) -> None:
    assert (teacher.num_image_tokens, teacher.num_text_tokens) == (16, 32)
    assert (teacher.inner_dim, teacher.joint_dim, teacher.pooled_dim) == (96, 64, 32)
    assert len(teacher.tap_names) == 2 * 2 + 3
    assert not teacher.dit.training
    assert not any(parameter.requires_grad for parameter in teacher.dit.parameters())


def test_noise_is_what_the_pipeline_draws(teacher: Teacher, flux_folder: Path) -> None:
    pipeline = stock_pipeline(flux_folder)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    expected, _ = pipeline.prepare_latents(2, 16, 64, 64, torch.float32, torch.device("cpu"), generators)
    noise_BNC = teacher.noise(SEEDS)
    assert noise_BNC.shape == (2, teacher.num_image_tokens, 64)
    assert torch.equal(noise_BNC, expected)
    assert torch.equal(teacher.noise(SEEDS[1:]), noise_BNC[1:]), "noise depends on the batch"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_is_one_step_of_the_pipeline(teacher_config: TeacherConfig, flux_folder: Path, dtype: Dtype) -> None:
    teacher = Teacher.load(teacher_config.model_copy(update={"dtype": dtype, "guidance": 2.5}))
    pipeline = stock_pipeline(flux_folder, dtype=dtype)
    prompt_embeds_BTE, pooled_BP = (tensor.to(DTYPES[dtype]) for tensor in conditioning(teacher))
    latents_BNC = teacher.noise(SEEDS)
    theirs, _ = observe(pipeline.transformer)
    pipeline(
        prompt_embeds=prompt_embeds_BTE,
        pooled_prompt_embeds=pooled_BP,
        latents=latents_BNC,
        height=64,
        width=64,
        num_inference_steps=1,
        guidance_scale=2.5,
        output_type="latent",
    )
    ours, _ = observe(teacher.dit)
    with torch.no_grad():
        velocity_BNC = teacher.forward(
            prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=latents_BNC, sigma_B=torch.ones(2)
        )
    assert theirs.pop("joint_attention_kwargs") == {}
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert not isinstance(value, Tensor) or (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape)
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name
    assert torch.equal(velocity_BNC, theirs["out"])


def test_guidance_only_goes_to_a_dit_distilled_with_it(teacher: Teacher, teacher_config: TeacherConfig) -> None:
    schnell = diffusers.FluxTransformer2DModel.from_config({**teacher.dit.config, "guidance_embeds": False}).eval()
    prompt_embeds_BTE, pooled_BP = conditioning(teacher)

    def velocity(dit: Any, guidance: float) -> Tensor:
        config = teacher_config.model_copy(update={"guidance": guidance})
        one = Teacher(dit, config=config, latent_scale=8)
        with torch.no_grad():
            return one.forward(
                prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=one.noise(SEEDS), sigma_B=one.sigmas(SEEDS)
            )

    assert torch.equal(velocity(schnell, 1.0), velocity(schnell, 4.0))
    assert not torch.equal(velocity(teacher.dit, 1.0), velocity(teacher.dit, 4.0))


def test_each_seed_has_one_of_the_noise_levels_and_the_dit_is_told_it(
    teacher: Teacher, teacher_config: TeacherConfig
) -> None:
    config = teacher_config.model_copy(update={"sigma": (0.25, 0.5)})
    prompt_embeds_BTE, pooled_BP = conditioning(teacher)
    seen, hook = observe(teacher.dit)
    with torch.no_grad():
        later = Teacher(teacher.dit, config=config, latent_scale=8)
        later.forward(
            prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=later.noise(SEEDS), sigma_B=later.sigmas(SEEDS)
        )
    hook.remove()
    assert seen["timestep"].tolist() == [(0.25, 0.5)[seed % 2] for seed in SEEDS]
    assert later.sigmas([4, 5, 6, 7]).tolist() == [0.25, 0.5, 0.25, 0.5]
    assert teacher.sigmas([4, 5]).tolist() == [1.0, 1.0]


def test_any_number_of_text_tokens_and_gradients_to_the_conditioning(teacher: Teacher) -> None:
    prompt_embeds_BTE = torch.randn(1, 7, teacher.joint_dim, requires_grad=True)
    pooled_BP = torch.randn(1, teacher.pooled_dim, requires_grad=True)
    velocity_BNC = teacher.forward(
        prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=teacher.noise([0]), sigma_B=torch.ones(1)
    )
    velocity_BNC.square().sum().backward()
    assert velocity_BNC.shape == (1, 16, 64)
    for leaf in (prompt_embeds_BTE, pooled_BP):
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.dit.parameters())


def test_a_canvas_that_the_vae_cannot_make_is_refused(teacher: Teacher, teacher_config: TeacherConfig) -> None:
    with pytest.raises(ConfigError, match="resolution 48 isn't a multiple of this model's 32"):
        Teacher(teacher.dit, config=teacher_config.model_copy(update={"resolution": 48}), latent_scale=16)


@pytest.fixture
def broken(flux_folder: Path, tmp_path: Path) -> Path:
    """A copy of the miniature, to be damaged."""
    return Path(shutil.copytree(flux_folder, tmp_path / "flux"))


def load(folder: Path) -> Teacher:
    return Teacher.load(TeacherConfig(model=str(folder), dtype="float32", resolution=64))


@pytest.mark.parametrize("name", ["transformer", "vae"])
def test_a_folder_without_a_component_is_refused(broken: Path, name: str) -> None:
    shutil.rmtree(broken / name)
    with pytest.raises(WeightsError, match=f"no {name}/"):
        load(broken)


def test_a_component_without_a_config_is_refused(broken: Path) -> None:
    (broken / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"transformer/config\.json is missing"):
        load(broken)


def test_another_architecture_is_refused(broken: Path) -> None:
    path = broken / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "SD3Transformer2DModel"}))
    with pytest.raises(WeightsError, match="holds a SD3Transformer2DModel; a FluxTransformer2DModel is needed"):
        load(broken)


def test_incomplete_weights_are_refused(broken: Path) -> None:
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["context_embedder.bias"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 weights.*'context_embedder\.bias'"):
        load(broken)


@pytest.mark.parametrize("damage", ["truncated", "not-json"])
def test_damaged_files_are_refused_in_one_line(broken: Path, damage: str) -> None:
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        (broken / "transformer" / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"transformer.* can't be (loaded|read): ") as caught:
        load(broken)
    assert "\n" not in str(caught.value)
