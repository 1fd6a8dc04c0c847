"""Fine-tunes of FLUX.1 work by their folder alone. The rest of FLUX is in tests/models/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from x2i_platform.config import TeacherConfig
from x2i_platform.errors import WeightsError
from x2i_platform.models.catalog import dit_dims
from x2i_platform.models.image_pipeline import ImagePipeline
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders

CAPTION = ["a red circle"]


def with_index(flux_folder: Path, folder: Path, **values: object) -> TeacherConfig:
    """The config of a copy of the miniature whose `model_index.json` says something else."""
    copy = Path(shutil.copytree(flux_folder, folder / "finetune"))
    index = json.loads((copy / "model_index.json").read_text()) | values
    (copy / "model_index.json").write_text(json.dumps({key: value for key, value in index.items() if value}))
    return TeacherConfig(model=str(copy), dtype="float32", text_tokens=32, resolution=64)


def test_a_fine_tune_under_another_pipelines_name_is_a_flux(
    flux_folder: Path, tmp_path: Path, teacher: Teacher, text_encoders: TextEncoders
) -> None:
    config = with_index(flux_folder, tmp_path, _class_name="FluxKontextPipeline")
    theirs = TextEncoders.load(config).encode(CAPTION)
    ours = text_encoders.encode(CAPTION)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
    latents_BNC, sigma_B = teacher.noise([1]), torch.ones(1)
    with torch.no_grad():
        velocities = [
            each.forward(ours.prompt_embeds_BTE, pooled_BP=ours.pooled_BP, latents_BNC=latents_BNC, sigma_B=sigma_B)
            for each in (teacher, Teacher.load(config), ImagePipeline.load(config).teacher(config))
        ]
    assert torch.equal(velocities[0], velocities[1])
    assert torch.equal(velocities[0], velocities[2])
    assert dit_dims(config.model) == dit_dims("mini:random-flux")


@pytest.mark.parametrize(
    ("transformer", "named"), [("", "FluxPipeline"), ([None, None], "FluxPipeline"), ("Flux", "FluxPipeline")]
)
def test_an_index_that_names_no_transformer_is_refused(
    flux_folder: Path, tmp_path: Path, transformer: object, named: str
) -> None:
    config = with_index(flux_folder, tmp_path, transformer=transformer)
    with pytest.raises(WeightsError, match=f"finetune holds a {named}; a teacher's DiT is one of FluxTransformer2DMod"):
        Teacher.load(config)
