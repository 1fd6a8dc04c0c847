"""A registered model as MLflow's own tools run it: a table of prompts comes in, PNG images as text go out.

MLflow imports this module because a version's `MLmodel` names it. Invariants: an image is the one that `generate` makes
of the same prompt, seed and settings; weights are read from safetensors alone.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x2i_platform.errors import InputError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.provenance import png_bytes
from x2i_platform.generation.requests import parse_request
from x2i_platform.models.devices import choose_device
from x2i_platform.models.model_folder import read_recipe

if TYPE_CHECKING:
    from pandas import DataFrame

DEVICE = "MLFLOW_DEFAULT_PREDICTION_DEVICE"
"""MLflow's variable for the device that predicts; without it the recipe's `run.generate.num_gpus` decides."""


class ImageModel:
    """A loaded model, with the method that MLflow calls."""

    def __init__(self, folder: Path) -> None:
        """Load AlignNet, its MLLM and its DiT. Raises WeightsError if they are missing or don't fit."""
        self._recipe = recipe = read_recipe(folder)
        device = os.environ.get(DEVICE) or choose_device(recipe.run.generate.num_gpus)
        self._generator = Generator.load(folder, recipe=recipe, device=device)

    def predict(self, prompts: DataFrame) -> list[dict[str, Any]]:
        """One image a row, in order, with its seed; without one that is the row's number from 1, as in a request file.

        An empty cell is the model's default. Raises InputError that names the first row that can't be drawn, before
        any is; PromptTooLong for a prompt of more tokens than the MLLM takes.
        """
        cells = prompts.astype(object).where(prompts.notna(), None).to_dict("records")
        wanted = [self._request(number, row) for number, row in enumerate(cells, start=1)]
        size = self._recipe.run.generate.batch_size
        return [image for start in range(0, len(wanted), size) for image in self._draw(wanted[start : start + size])]

    def _request(self, number: int, row: dict[Hashable, Any]) -> ImageRequest:
        filled = {str(column): value for column, value in row.items() if value is not None}
        line = parse_request(number, filled, folder=None)
        if line.request is None:
            raise InputError(f"row {number}: {line.error}")
        return ImageRequest(line.request.prompt, line.seed, line.request.settings(self._recipe.generate))

    def _draw(self, wanted: Sequence[ImageRequest]) -> Iterator[dict[str, Any]]:
        for request, made in zip(wanted, self._generator.generate(wanted), strict=True):
            how = {"seed": request.seed, **request.settings.model_dump()}
            png = png_bytes(made, prompt=str(request.prompt), how=how)
            answer = {} if made.answer is None else {"answer": made.answer}
            yield {"png_base64": base64.b64encode(png).decode(), "seed": request.seed, **answer}


def _load_pyfunc(path: str) -> ImageModel:
    """MLflow's entry point: the model of a folder."""
    return ImageModel(Path(path))
