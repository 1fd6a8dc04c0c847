"""A small MiniCPM-o 2.6, built once and loaded as a user's folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.random_minicpm_o import write
from x2i_platform.models.minicpm_o.registration import register
from x2i_platform.torchvision_schemas import define_missing_schemas


@pytest.fixture(scope="session")
def minicpm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    define_missing_schemas()
    register()
    folder = tmp_path_factory.mktemp("minicpm-o")
    write(folder)
    return folder


@pytest.fixture(scope="session")
def body(minicpm_folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(minicpm_folder).eval()


@pytest.fixture(scope="session")
def whole(minicpm_folder: Path) -> Any:
    return transformers.AutoModelForMultimodalLM.from_pretrained(minicpm_folder).eval()


@pytest.fixture(scope="session")
def processor(minicpm_folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(minicpm_folder)
