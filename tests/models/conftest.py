"""The miniature models, located as a user's recipe would, loaded once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from x2i_platform.config import MLLMConfig, TeacherConfig
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.models.weights import locate


@pytest.fixture(scope="session")
def flux_folder() -> Path:
    return locate("mini:random-flux")


@pytest.fixture(scope="session")
def qwen_folder() -> Path:
    return locate("mini:random-qwen2.5-vl")


@pytest.fixture(scope="session")
def teacher_config() -> TeacherConfig:
    return TeacherConfig(model="mini:random-flux", dtype="float32", text_tokens=32, resolution=64)


@pytest.fixture(scope="session")
def mllm_config() -> MLLMConfig:
    return MLLMConfig(model="mini:random-qwen2.5-vl", dtype="float32", max_tokens=128)


@pytest.fixture(scope="session")
def shared_teacher(teacher_config: TeacherConfig) -> Teacher:
    return Teacher.load(teacher_config)


@pytest.fixture
def teacher(shared_teacher: Teacher) -> Teacher:
    shared_teacher.dit.disable_gradient_checkpointing()
    return shared_teacher


@pytest.fixture(scope="session")
def text_encoders(teacher_config: TeacherConfig) -> TextEncoders:
    return TextEncoders.load(teacher_config)


@pytest.fixture(scope="session")
def mllm(mllm_config: MLLMConfig) -> MLLM:
    return MLLM.load(mllm_config)


@pytest.fixture
def conditioning(teacher: Teacher) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompt embeds (2, 32, E) and pooled (2, P) that want gradients."""
    generator = torch.Generator().manual_seed(0)
    prompt_embeds_BTE = torch.randn(2, 32, teacher.joint_dim, generator=generator)
    pooled_BP = torch.randn(2, teacher.pooled_dim, generator=generator)
    return prompt_embeds_BTE.requires_grad_(), pooled_BP.requires_grad_()
