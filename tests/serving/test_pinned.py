"""What a service is pinned to stays what it was, whatever its name comes to mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from x2i_platform.config import Recipe
from x2i_platform.errors import RegistryError, WeightsError
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import locate
from x2i_platform.recipes import override
from x2i_platform.registry.models import register
from x2i_platform.registry.tracking import start_or_resume
from x2i_platform.serving.pinned import fetch, pin_model


def registered(folder: Path, recipe: Recipe, *, tracking_uri: str) -> str:
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    info = start_or_resume(
        tracking_uri=tracking_uri, experiment="e", run_name="r", key=recipe.model_dump_json(), params={}, tags={}
    )
    return register(folder, name="mini", info=info, manifest_digest="abc", card="# A model").uri


def test_an_alias_that_moves_moves_no_service(model_folder: Path, mini_recipe: Recipe, tmp_path: Path) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "model"
    shutil.copytree(model_folder, folder)
    registered(folder, mini_recipe, tracking_uri=uri)
    pinned, recipe = pin_model("models:/mini@candidate", tracking_uri=uri)
    assert recipe == mini_recipe
    assert (pinned.name, pinned.version) == ("models:/mini@candidate", "models:/mini/1")

    slower = override(mini_recipe, ["generate.num_inference_steps=7"])
    assert registered(folder, slower, tracking_uri=uri) == "models:/mini/2"
    assert read_recipe(fetch(pinned, tracking_uri=uri)) == mini_recipe
    moved, _ = pin_model("models:/mini@candidate", tracking_uri=uri)
    assert moved.version == "models:/mini/2"
    assert moved.facts["digest"] != pinned.facts["digest"]
    with pytest.raises(RegistryError, match="no alias 'champion'"):
        pin_model("models:/mini@champion", tracking_uri=uri)


def test_a_folder_that_changed_is_not_served(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    shutil.copytree(model_folder, folder)
    pinned, recipe = pin_model(str(folder), tracking_uri="")
    assert (pinned.name, pinned.version) == ("my model", "my model"), "paths are nobody's business"
    assert fetch(pinned, tracking_uri="") == folder
    changed = override(recipe, ["generate.guidance=1"])
    (folder / "recipe.json").write_text(changed.model_dump_json())
    with pytest.raises(WeightsError, match="the files of model 'my model' changed after it was deployed; deploy it"):
        fetch(pinned, tracking_uri="")


def test_a_dit_that_changed_is_not_served(model_folder: Path, tmp_path: Path) -> None:
    folder, dit = tmp_path / "model", tmp_path / "flux"
    shutil.copytree(model_folder, folder)
    shutil.copytree(locate("mini:random-flux"), dit)
    recipe = override(read_recipe(folder), [f"teacher.model={dit}"])
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    pinned, _ = pin_model(str(folder), tracking_uri="")
    scheduler = dit / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 2.0}))
    with pytest.raises(WeightsError, match="the DiT or MLLM of model 'model' changed after it was deployed"):
        fetch(pinned, tracking_uri="")
