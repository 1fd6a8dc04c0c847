"""The untrained Stable Diffusion 3 pipeline and its parts, loaded once for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2i_platform.config import TeacherConfig
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.models.weights import locate


@pytest.fixture(scope="session")
def sd3_folder() -> Path:
    return locate("mini:random-sd3")


@pytest.fixture(scope="session")
def sd3_config() -> TeacherConfig:
    """CLIP's 77 positions and 32 of T5."""
    return TeacherConfig(model="mini:random-sd3", dtype="float32", text_tokens=77 + 32, resolution=64)


@pytest.fixture(scope="session")
def shared_sd3(sd3_config: TeacherConfig) -> Teacher:
    return Teacher.load(sd3_config)


@pytest.fixture
def sd3(shared_sd3: Teacher) -> Teacher:
    shared_sd3.dit.disable_gradient_checkpointing()
    return shared_sd3


@pytest.fixture(scope="session")
def sd3_encoders(sd3_config: TeacherConfig) -> TextEncoders:
    return TextEncoders.load(sd3_config)
