"""One loaded miniature generator for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2i_platform.generation.generator import Generator


@pytest.fixture(scope="session")
def generator(model_folder: Path) -> Generator:
    return Generator.load(model_folder)
