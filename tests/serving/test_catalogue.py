"""Names of models, and aliases that are followed through a real registry."""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.serving.by_hand import toy, until
from tests.serving.test_pinned import registered
from x2i_platform.config import Recipe
from x2i_platform.errors import RegistryError
from x2i_platform.recipes import override
from x2i_platform.serving.catalogue import Catalogue, Follower, Offer
from x2i_platform.serving.pinned import Pinned, pin_model

ALIAS = "models:/mini@champion"


@dataclass(frozen=True)
class Registry:
    """A registry in SQLite, with versions of the model in a folder."""

    database: Path
    model: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.database}"

    def add(self, recipe: Recipe) -> None:
        registered(self.model, recipe, tracking_uri=self.uri)

    def point(self, version: int) -> None:
        MlflowClient(self.uri).set_registered_model_alias("mini", "champion", str(version))


class Loader:
    """Notes what is loaded, as it is asked to; raises what stands in `error`."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.offered: list[str] = []
        self.error: Exception | None = None
        self.catalogue: Catalogue | None = None

    async def load(self, model: Pinned) -> None:
        assert self.catalogue
        self.offered.append(self.catalogue.offers[0].pinned.version)
        self.loaded.append(model.version)
        if self.error:
            raise self.error


@pytest.fixture(scope="module")
def filled(model_folder: Path, mini_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Version 1 is champion, and version 2 draws in more steps."""
    folder = tmp_path_factory.mktemp("registry")
    shutil.copytree(model_folder, folder / "model")
    found = Registry(folder / "mlflow.db", folder / "model")
    found.add(mini_recipe)
    found.point(1)
    found.add(override(mini_recipe, ["generate.num_inference_steps=7"]))
    return found


@pytest.fixture
def registry(filled: Registry, tmp_path: Path) -> Registry:
    """A copy of its database, because MLflow takes five seconds to make one."""
    return replace(filled, database=Path(shutil.copy(filled.database, tmp_path)))


def following(registry: Registry) -> tuple[Follower, Loader]:
    loader = Loader()
    loader.catalogue = Catalogue([Offer(*pin_model(ALIAS, tracking_uri=registry.uri))])
    return Follower(loader.catalogue, loader.load, tracking_uri=registry.uri, every_s=0.01), loader


def served(follower: Follower) -> str:
    offer = follower.catalogue.find("mini")
    assert offer
    return offer.pinned.version


def test_a_model_is_found_by_any_of_its_names_and_the_first_is_the_default(mini_recipe: Recipe) -> None:
    first = Offer(Pinned("models:/a@champion", "models:/a/3", content="1", base=None), mini_recipe)
    second = Offer(Pinned("models:/b/7", "models:/b/7", content="2", base=None), mini_recipe)
    third = Offer(Pinned("my model", "/somewhere/my model", content="3", base=None), mini_recipe)
    same = Offer(Pinned("models:/a@candidate", "models:/a/4", content="4", base=None), mini_recipe)
    catalogue = Catalogue([first, second, third, same])
    for name, offer in {
        None: first,
        "models:/a@champion": first,
        "a": first,
        "models:/a/3": first,
        "models:/a@candidate": same,
        "b": second,
        "models:/b/7": second,
        "my model": third,
        "models:/a/2": None,
        "/somewhere/my model": None,
        "": None,
    }.items():
        assert catalogue.find(name) is offer, name
        assert catalogue.pinned(name) is (offer and offer.pinned)
    newer = Offer(Pinned("models:/a@candidate", "models:/a/5", content="5", base=None), mini_recipe)
    catalogue.switch(newer)
    assert catalogue.offers == [first, second, third, newer]
    assert catalogue.find("models:/a/4") is None


def test_a_version_and_a_folder_are_not_followed(mini_recipe: Recipe) -> None:
    assert toy(mini_recipe).pinned.follows
    assert not Pinned("models:/b/7", "models:/b/7", content="", base=None).follows
    assert not Pinned("my model", "/somewhere/my model", content="", base=None).follows


async def test_where_an_alias_moves_the_service_follows_once_it_is_loaded(registry: Registry) -> None:
    follower, loader = following(registry)
    await follower.look()
    assert (served(follower), loader.loaded) == ("models:/mini/1", [])
    registry.point(2)
    await follower.look()
    assert (served(follower), loader.loaded) == ("models:/mini/2", ["models:/mini/2"])
    assert loader.offered == ["models:/mini/1"], "the old one is offered until the new one is loaded"
    assert follower.catalogue.offers[0].recipe.generate.num_inference_steps == 7
    await follower.look()
    registry.point(1)
    await follower.look()
    assert loader.loaded == ["models:/mini/2", "models:/mini/1"], "and back"
    assert follower.problems == {}


async def test_what_needs_another_mllm_stays_away_and_is_said_once(
    registry: Registry, mini_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    follower, loader = following(registry)
    registry.add(override(mini_recipe, ["mllm.max_tokens=99"]))
    registry.point(3)
    with caplog.at_level(logging.WARNING, logger="x2i_platform.serving.catalogue"):
        for _ in range(3):
            await follower.look()
    assert (served(follower), loader.loaded) == ("models:/mini/1", [])
    [problem] = follower.problems.values()
    assert problem == (
        f"model '{ALIAS}' can't share this service's MLLM and DiT: mllm.max_tokens: 128 in the service, 99 asked for; "
        "serve it apart"
    )
    assert [record.getMessage() for record in caplog.records] == [f"{ALIAS} stays at models:/mini/1: {problem}"]
    registry.point(1)
    await follower.look()
    assert follower.problems == {}, "it is where it should be"
    registry.point(2)
    await follower.look()
    assert served(follower) == "models:/mini/2"


async def test_what_cannot_be_loaded_is_tried_again(registry: Registry) -> None:
    follower, loader = following(registry)
    registry.point(2)
    loader.error = RegistryError("the artifact store is away")
    for _ in range(2):
        await follower.look()
    assert (served(follower), follower.problems) == ("models:/mini/1", {ALIAS: "the artifact store is away"})
    loader.error = None
    await follower.look()
    assert (served(follower), follower.problems, len(loader.loaded)) == ("models:/mini/2", {}, 3)


async def test_a_registry_that_goes_away_takes_nothing_with_it(registry: Registry) -> None:
    follower, _ = following(registry)
    hidden = registry.database.with_name("hidden.db")
    registry.database.rename(hidden)
    await follower.look()
    assert served(follower) == "models:/mini/1"
    assert "there is no MLflow database" in follower.problems[ALIAS]
    assert not registry.database.exists(), "and no empty one is made in its place"
    hidden.rename(registry.database)
    registry.point(2)
    await follower.look()
    assert (served(follower), follower.problems) == ("models:/mini/2", {})
    MlflowClient(registry.uri).delete_registered_model_alias("mini", "champion")
    await follower.look()
    assert served(follower) == "models:/mini/2"
    assert "no alias 'champion'" in follower.problems[ALIAS]


async def test_following_goes_on_after_any_failure(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    follower, loader = following(registry)
    registry.point(2)
    loader.error = ConnectionResetError("a replica died")
    running = asyncio.create_task(follower.run())
    try:
        await until(lambda: len(loader.loaded) >= 2)
        assert "looking at the aliases failed" in caplog.text
        loader.error = None
        await until(lambda: served(follower) == "models:/mini/2")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
