"""The small MiniCPM-o 2.6, loaded as a user's folder would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from x2i_platform.models.minicpm_o.registration import register
from x2i_platform.models.weights import locate


@pytest.fixture(scope="session")
def minicpm_folder() -> Path:
    register()
    return locate("mini:random-minicpm-o")


@pytest.fixture(scope="session")
def body(minicpm_folder: Path) -> Any:
    return transformers.AutoModel.from_pretrained(minicpm_folder).eval()


@pytest.fixture(scope="session")
def whole(minicpm_folder: Path) -> Any:
    return transformers.AutoModelForMultimodalLM.from_pretrained(minicpm_folder).eval()


@pytest.fixture(scope="session")
def processor(minicpm_folder: Path) -> Any:
    return transformers.AutoProcessor.from_pretrained(minicpm_folder)
