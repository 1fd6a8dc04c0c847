"""A registered model in the hands of MLflow's own tools."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from x2i_platform.config import GenerateConfig, Recipe
from x2i_platform.errors import InputError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.generation.requests import RequestLine
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.registry.flavours import INPUTS, OUTPUTS
from x2i_platform.registry.models import register, resolve
from x2i_platform.registry.tracking import start_or_resume

SIZE = {"width": 64, "height": 64, "num_inference_steps": 1}
SETTINGS = GenerateConfig(guidance=3.5, width=64, height=64, num_inference_steps=1)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> str:
    """A registry that holds the untrained miniature as `models:/mini/1`."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    info = start_or_resume(tracking_uri=uri, experiment="e", run_name="r", key="k", params={}, tags={})
    register(model_folder, name="mini", info=info, manifest_digest="", card="# A model\n")
    return uri


@pytest.fixture(scope="module")
def loaded(uri: str) -> mlflow.pyfunc.PyFuncModel:
    mlflow.set_tracking_uri(uri)
    return mlflow.pyfunc.load_model("models:/mini/1")


def opened(row: Mapping[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(row["png_base64"])))


def drawn(folder: Path, prompts: Mapping[str, int]) -> list[bytes]:
    """Pixels of the images of some prompts with their seeds, drawn in one batch."""
    wanted = [ImageRequest(prompt, seed, SETTINGS) for prompt, seed in prompts.items()]
    return [made.image.tobytes() for made in Generator.load(folder).generate(wanted)]


def test_its_columns_are_those_of_a_request(mini_recipe: Recipe) -> None:
    assert set(INPUTS) <= set(RequestLine.model_fields)
    assert set(INPUTS) - {"prompt", "seed"} <= set(type(mini_recipe.generate).model_fields)


def test_a_table_of_prompts_becomes_the_images_that_generate_makes(
    loaded: mlflow.pyfunc.PyFuncModel, model_folder: Path
) -> None:
    prompts = {"a red circle": 7, "a blue square": 8}
    rows = [{"prompt": prompt, "seed": seed, "guidance": 3.5, **SIZE} for prompt, seed in prompts.items()]
    made = loaded.predict(rows)
    assert [row["seed"] for row in made] == [7, 8]
    assert {key for row in made for key in row} <= set(OUTPUTS)
    assert [opened(row).tobytes() for row in made] == drawn(model_folder, prompts)
    assert opened(made[0]).info["prompt"] == "a red circle"


def test_what_a_row_leaves_out_is_the_models_default(loaded: mlflow.pyfunc.PyFuncModel, model_folder: Path) -> None:
    made = loaded.predict([{"prompt": "a red circle", "guidance": 2.0}, {"prompt": "a red circle"}])
    assert [row["seed"] for row in made] == [1, 2], "the row's number, as in a request file"
    how = [json.loads(opened(row).info["x2i"]) for row in made]
    defaults = read_recipe(model_folder).generate
    assert [each["guidance"] for each in how] == [2.0, defaults.guidance]
    assert {(each["width"], each["num_inference_steps"]) for each in how} == {
        (defaults.width, defaults.num_inference_steps)
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": " "}, "row 2: prompt is blank"),
        ({"prompt": "a", "width": 50}, "row 2: width: Input should be a multiple of 16, not 50"),
        ({"prompt": "a", "seed": -1}, "row 2: seed: Input should be greater than or equal to 0, not -1"),
    ],
)
def test_a_row_that_can_not_be_drawn_is_named(
    loaded: mlflow.pyfunc.PyFuncModel, row: dict[str, Any], message: str
) -> None:
    good = {**dict.fromkeys(row, 16), "prompt": "a"}
    with pytest.raises(InputError, match=message):
        loaded.predict([good, row])


def test_a_number_that_is_missing_in_one_row_is_refused_and_not_guessed(loaded: mlflow.pyfunc.PyFuncModel) -> None:
    with pytest.raises(MlflowException, match="seed"):
        loaded.predict([{"prompt": "a", "seed": 1}, {"prompt": "b"}])


def test_a_version_from_before_this_flavour_still_resolves(uri: str) -> None:
    stored = Path(MlflowClient(uri).get_model_version_download_uri("mini", "1")) / "MLmodel"
    content = stored.read_text()
    stored.write_text("flavors:\n  x2i_platform:\n    config: config.json\n    weights: alignnet.safetensors\n")
    try:
        assert Generator.load(resolve("models:/mini/1", tracking_uri=uri)).recipe.name == "random"
    finally:
        stored.write_text(content)


@pytest.mark.slow
def test_mlflow_models_predict_draws_an_image(uri: str, tmp_path: Path, model_folder: Path) -> None:
    row = {"prompt": "a red circle", "seed": 7, **SIZE, "guidance": 3.5}
    (tmp_path / "input.json").write_text(json.dumps({"dataframe_records": [row]}))
    command = ["models", "predict", "-m", "models:/mini/1", "-i", "input.json", "-o", "output.json"]
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *command, "--env-manager", "local"],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [made] = json.loads((tmp_path / "output.json").read_text())["predictions"]
    assert made["seed"] == 7
    assert [opened(made).tobytes()] == drawn(model_folder, {"a red circle": 7})
