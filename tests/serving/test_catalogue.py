"""Which version a name is, and how it follows its alias."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.serving.test_pinned import registered
from x2i_platform.config import Recipe
from x2i_platform.errors import RegistryError, WeightsError
from x2i_platform.recipes import override
from x2i_platform.serving.catalogue import Catalogue, Follower, Offer
from x2i_platform.serving.pinned import Pinned, pin_model


class Loaded:
    """Stands for the encoders: remembers what was loaded, or refuses it."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.refusal: Exception | None = None

    async def __call__(self, model: Pinned) -> None:
        if self.refusal:
            raise self.refusal
        self.versions.append(model.version)


@pytest.fixture
def uri(tmp_path: Path, model_folder: Path, mini_recipe: Recipe) -> str:
    """A registry with two versions of `mini` that differ in their steps; `candidate` is at the second."""
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "model"
    shutil.copytree(model_folder, folder)
    for steps in (2, 7):
        registered(folder, override(mini_recipe, [f"generate.num_inference_steps={steps}"]), tracking_uri=uri)
    MlflowClient(uri).set_registered_model_alias("mini", "champion", "1")
    return uri


def followed(uri: str, *names: str) -> tuple[Catalogue, Follower, Loaded]:
    catalogue = Catalogue([Offer(*pin_model(name, tracking_uri=uri)) for name in names])
    loaded = Loaded()
    return catalogue, Follower(catalogue, loaded, tracking_uri=uri, every_s=0.01), loaded


def version(catalogue: Catalogue, name: str | None = None) -> str:
    offer = catalogue.find(name)
    assert offer
    return offer.pinned.version


async def test_a_moved_alias_is_loaded_and_then_offered_and_goes_back(uri: str) -> None:
    catalogue, follower, loaded = followed(uri, "models:/mini@champion", "models:/mini/2")
    before = catalogue.find(None)
    await follower.look()
    assert (version(catalogue), loaded.versions) == ("models:/mini/1", [])
    MlflowClient(uri).set_registered_model_alias("mini", "champion", "2")
    await follower.look()
    assert (version(catalogue), loaded.versions) == ("models:/mini/2", ["models:/mini/2"])
    after = catalogue.find("models:/mini@champion")
    assert before and after
    assert (before.recipe.generate.num_inference_steps, after.recipe.generate.num_inference_steps) == (2, 7)
    MlflowClient(uri).set_registered_model_alias("mini", "champion", "1")
    await follower.look()
    assert version(catalogue) == "models:/mini/1"


async def test_a_version_that_cannot_be_served_is_said_and_the_old_one_stays(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue, follower, loaded = followed(uri, "models:/mini@champion")
    MlflowClient(uri).set_registered_model_alias("mini", "champion", "2")
    loaded.refusal = WeightsError("AlignNet reads 9 layers")
    for _ in range(3):
        await follower.look()
    assert version(catalogue) == "models:/mini/1"
    assert follower.problems == {"models:/mini@champion": "AlignNet reads 9 layers"}
    assert caplog.text.count("stays at models:/mini/1: AlignNet reads 9 layers") == 1
    loaded.refusal = None
    await follower.look()
    assert (version(catalogue), follower.problems) == ("models:/mini/2", {})


async def test_a_version_of_another_mllm_is_not_offered(
    uri: str, tmp_path: Path, model_folder: Path, mini_recipe: Recipe
) -> None:
    _, follower, loaded = followed(uri, "models:/mini@champion")
    folder = tmp_path / "other"
    shutil.copytree(model_folder, folder)
    registered(folder, override(mini_recipe, ["mllm.max_tokens=99"]), tracking_uri=uri)
    MlflowClient(uri).set_registered_model_alias("mini", "champion", "3")
    await follower.look()
    assert loaded.versions == []
    assert (
        "can't share this service's MLLM and DiT: mllm.max_tokens: 128 in the service, 99 asked for"
        in (follower.problems["models:/mini@champion"])
    )


async def test_a_registry_that_is_away_changes_nothing(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, follower, _ = followed(uri, "models:/mini@champion")

    def away(*_: object, **__: object) -> str:
        raise RegistryError("MLflow can't be reached")

    monkeypatch.setattr("x2i_platform.serving.catalogue.pin", away)
    await follower.look()
    assert version(catalogue) == "models:/mini/1"
    assert "can't be reached" in follower.problems["models:/mini@champion"]


def test_a_model_has_its_names_and_the_first_is_the_default(uri: str) -> None:
    catalogue, _, _ = followed(uri, "models:/mini@candidate", "models:/mini@champion")
    assert version(catalogue) == version(catalogue, "mini") == version(catalogue, "models:/mini/2") == "models:/mini/2"
    assert version(catalogue, "models:/mini@champion") == version(catalogue, "models:/mini/1") == "models:/mini/1"
    assert catalogue.find("dall-e-3") is None
    assert catalogue.pinned("dall-e-3") is None
    follows = {
        name: pin_model(name, tracking_uri=uri)[0].follows for name in ("models:/mini@champion", "models:/mini/2")
    }
    assert follows == {"models:/mini@champion": True, "models:/mini/2": False}
