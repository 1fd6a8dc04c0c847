"""A released checkpoint becomes a version that images are made with, and leaves as the file that came."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines import RECIPES
from pipelines.models import export_model, import_model
from tests.random_models import RANDOM
from x2i_platform.config import GenerateConfig
from x2i_platform.errors import ConfigError, RegistryError, WeightsError
from x2i_platform.generation.generator import Generator, ImageRequest
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.released import export_released
from x2i_platform.recipes import load, override
from x2i_platform.registry.models import list_models, resolve

RECIPE = load(RANDOM, shipped=RECIPES)


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A checkpoint of fusion `scale`, unlike the recipe's, wrapped as the authors' trainer leaves it."""
    shape = override(RECIPE, ["alignnet.fusion=scale", "alignnet.t5_layers=1", "alignnet.t5_heads=4"])
    alignnet = AlignNet(shape.alignnet, dims=AlignNetDims.of(shape))
    path = export_released(alignnet, tmp_path / "diffusion_pytorch_model.bin")
    state = torch.load(path, weights_only=True)
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, path)
    return path


def test_an_import_is_a_version_that_draws_and_a_second_one_is_the_same(released: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first, second = (import_model(released, RECIPE, name="theirs", tracking_uri=uri) for _ in range(2))
    assert first == second
    assert (first.model, first.fusion, first.t5_layers, first.padding) == ("models:/theirs/1", "scale", 1, "reference")
    assert [len(model.versions) for model in list_models(uri)] == [1]
    folder = resolve("models:/theirs@candidate", tracking_uri=uri)
    assert read_recipe(folder).alignnet.t5_heads == 4
    card = (folder / "README.md").read_text()
    assert "imported from `diffusion_pytorch_model.bin`" in card
    assert str(tmp_path) not in card
    settings = GenerateConfig(num_inference_steps=1, guidance=3.5, width=64, height=64)
    [made] = Generator.load(folder).generate([ImageRequest("a red circle", 1, settings)])
    assert made.image.size == (64, 64)


def test_what_was_exported_is_what_came(released: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    imported = import_model(released, RECIPE, name="theirs", tracking_uri=uri)
    back = export_model(resolve(imported.model, tracking_uri=uri), tmp_path / "back.bin")
    came, left = (torch.load(path, weights_only=True) for path in (released, back))
    assert {f"module.{key}": tensor.tolist() for key, tensor in left.items()} == {
        key: tensor.tolist() for key, tensor in came.items()
    }
    folder = resolve(imported.model, tracking_uri=uri)
    with pytest.raises(ConfigError, match=r"back\.pt' must end in \.bin"):
        export_model(folder, tmp_path / "back.pt")
    with pytest.raises(ConfigError, match="layout 'onnx' is unknown; there are reference, comfyui"):
        export_model(folder, tmp_path / "back.bin", layout="onnx")
    nodes = export_model(folder, tmp_path / "back.pt", layout="comfyui")
    assert torch.load(nodes, weights_only=True)["config"]["in_channels"] == 5


def test_what_can_not_run_is_refused_before_anything_is_registered(released: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(
        WeightsError, match=r"model\.bin has hidden_size = 64, the models of recipe 'mini-reference' need 128"
    ):
        import_model(released, load("mini-reference", shipped=RECIPES), name="theirs", tracking_uri=uri)
    with pytest.raises(ConfigError, match="recipe 'random': "):  # states of answers have no padding of the reference's
        import_model(released, override(RECIPE, ["mllm.states=answer"]), name="theirs", tracking_uri=uri)
    with pytest.raises(RegistryError, match="model name 'a/b' is not usable"):
        import_model(released, RECIPE, name="a/b", tracking_uri=uri)
    with pytest.raises(WeightsError, match="no AlignNet weights at"):
        import_model(tmp_path / "nowhere.bin", RECIPE, name="theirs", tracking_uri=uri)
    assert list_models(uri) == []
