"""What an actor of the pool does with a fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipelines.generator_pool import GeneratorActor
from x2i_platform.config import Recipe
from x2i_platform.errors import WeightsError
from x2i_platform.generation.generator import Generated, Generator


@pytest.mark.parametrize(
    ("fault", "refusal"),
    [
        (WeightsError("a broken model"), "WeightsError: a broken model"),
        (torch.AcceleratorError("the device is lost"), "ClusterError: AcceleratorError the device is lost"),
        (None, "StoreError: can't write "),
    ],
)
def test_a_fault_that_is_no_lines_stops_the_run(
    tmp_path: Path,
    model_folder: Path,
    mini_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception | None,
    refusal: str,
) -> None:
    def made(_: object, requests: list[object]) -> list[Generated]:
        if fault:
            raise fault
        return [Generated(Image.new("RGB", (16, 16))) for _ in requests]

    monkeypatch.setattr(Generator, "generate", made)
    (tmp_path / "images").touch()  # a disk that takes nothing more looks the same
    actor = GeneratorActor(str(model_folder), recipe=mini_recipe.model_dump(mode="json"), out=str(tmp_path))
    row = {"line": 1, "prompt": "a", "seed": 1, "file": "images/1.png", "facts": {}, "messages": [], "media": []}
    batch = {"row": [json.dumps({**row, "settings": mini_recipe.generate.model_dump()})] * 2}
    for _ in range(2):  # and it is not tried again
        assert all(each.startswith(refusal) for each in actor(batch)["refusal"])
        assert actor(batch)["error"] == ["", ""]
