"""The table of teachers against built models: parameters on the meta device, sizes of the miniatures' folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from pipelines import RECIPES
from tests.models.test_catalog import num_parameters
from x2i_platform.errors import WeightsError
from x2i_platform.models.catalog import dit_dims, teacher_entry
from x2i_platform.models.dits import ARCHITECTURES
from x2i_platform.models.taps import tap_names
from x2i_platform.models.teachers import TEACHERS
from x2i_platform.models.weights import locate
from x2i_platform.plan import plan_recipe
from x2i_platform.recipes import load

LARGE, MEDIUM = (f"stabilityai/stable-diffusion-3.5-{size}" for size in ("large", "medium"))
SCHNELL, SHUTTLE = "black-forest-labs/FLUX.1-schnell", "shuttleai/shuttle-3-diffusion"
PUBLISHED: Mapping[str, Any] = {
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
"""What the config.json files of both sizes have in common; the rest is below."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    LARGE: {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "pos_embed_max_size": 192},
    MEDIUM: {
        **{"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 384},
        "dual_attention_layers": list(range(13)),
    },
}


@pytest.mark.parametrize("name", [LARGE, MEDIUM])
def test_parameters_of_sd3_are_those_of_the_architecture(name: str) -> None:
    entry = TEACHERS[name]
    with torch.device("meta"):
        dit = diffusers.SD3Transformer2DModel(**PUBLISHED, **SIZES[name])
        clip_l, clip_g = (
            transformers.CLIPTextModelWithProjection(
                transformers.CLIPTextConfig(
                    vocab_size=49408,
                    hidden_size=width,
                    intermediate_size=4 * width,
                    num_hidden_layers=layers,
                    num_attention_heads=width // 64,
                    projection_dim=width,
                )
            )
            for width, layers in ((768, 12), (1280, 32))
        )
    assert num_parameters(dit) == entry.dit_parameters
    assert num_parameters(clip_l) + num_parameters(clip_g) == entry.clip_parameters
    assert tap_names(dit) == entry.dit.tap_names
    assert dit.inner_dim == entry.dit.inner_dim
    # The weights' files as published: 16.3 GB and 4.94 GB in bfloat16, with the table of positions.
    stored = sum(tensor.numel() for tensor in dit.state_dict().values()) * 2
    assert stored == pytest.approx({LARGE: 16.3e9, MEDIUM: 4.94e9}[name], rel=1e-3)


@pytest.mark.parametrize("name", [LARGE, MEDIUM])
def test_sizes_are_read_from_the_published_configs(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(locate("mini:random-sd3"), tmp_path / "sd3"))
    config = {"_class_name": "SD3Transformer2DModel", "in_channels": 16, **PUBLISHED, **SIZES[name]}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    assert dit_dims(str(folder)) == TEACHERS[name].dit
    assert len(TEACHERS[name].dit.tap_names) == {LARGE: 2 * 38 - 1, MEDIUM: 2 * 24 - 1 + 13}[name]


def test_the_table_describes_the_untrained_miniature() -> None:
    name = "mini:random-sd3"
    assert replace(teacher_entry(str(locate(name))), model=name, licence="apache-2.0") == teacher_entry(name)
    dit = diffusers.SD3Transformer2DModel.from_pretrained(locate(name) / "transformer")
    assert num_parameters(dit) == TEACHERS[name].dit_parameters
    assert tap_names(dit) == TEACHERS[name].dit.tap_names


def test_every_teacher_is_of_a_known_kind() -> None:
    assert {entry.transformer for entry in TEACHERS.values()} == set(ARCHITECTURES)


@pytest.mark.parametrize(("fine_tune", "base"), [(SHUTTLE, SCHNELL), (f"{LARGE}-turbo", LARGE)])
def test_a_fine_tune_has_the_sizes_of_its_base(fine_tune: str, base: str) -> None:
    assert replace(TEACHERS[fine_tune], model=base) == TEACHERS[base]


def test_a_folder_with_an_unknown_dit_is_refused_by_a_plan(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(locate("mini:random-sd3"), tmp_path / "other"))
    (folder / "transformer" / "config.json").write_text('{"_class_name": "PixArtTransformer2DModel"}')
    with pytest.raises(WeightsError, match="transformer holds a PixArtTransformer2DModel; a teacher's DiT is one of"):
        teacher_entry(str(folder))
    (folder / "transformer" / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    with pytest.raises(WeightsError, match="isn't a StableDiffusion3Pipeline: no 'num_layers' in the config"):
        teacher_entry(str(folder))


def test_a_plan_at_medium_size_is_the_one_worked_out_by_hand() -> None:
    recipe = load("sd3.5-medium_qwen2.5-vl-7b", shipped=RECIPES)
    plan = plan_recipe(recipe, rows=1)
    found = {table.table: table.bytes_per_row for table in plan.tables}
    # 77 positions of CLIP and 256 of T5, 4096 wide, and a pooled vector of 2048, in bfloat16.
    assert found["text"] == pytest.approx((333 * 4096 + 2048) * 2, rel=1e-3)
    # 24 image taps and 13 second ones of 96 tokens, 23 text taps of 32: int8, and a float16 scale a channel.
    assert found["targets"] == pytest.approx((37 * 96 + 23 * 32 + 2 * 60) * 1536, rel=5e-3)
    # T5 reads 256 of the 333 tokens; the DiT's forward is counted in tests/models/test_flops.py.
    t5 = 24 * (256 * 2 * (4 * 4096**2 + 3 * 4096 * 10240) + 4 * 256**2 * 4096)
    longer = recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"clip_tokens": 332})})
    assert plan.teacher_flops - plan_recipe(longer, rows=1).teacher_flops == pytest.approx(t5 * 255 / 256, rel=0.01)
