"""Arguments of a service: what is taken, and that a wrong one is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from x2i_platform.cache import cache_folder
from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError
from x2i_platform.recipes import override
from x2i_platform.serving.deployment import Deployment, Gpus, load_finish

MODEL = "models:/mini@champion"
WIDTH = 64


def grey(image: Image.Image, how: Mapping[str, Any]) -> Image.Image:
    """A function that a deployment may name."""
    return image.convert("L").convert("RGB")


def test_a_model_is_enough_and_many_are_a_list() -> None:
    assert Deployment.of({"model": MODEL}).model == (MODEL,)
    assert Deployment.of({"model": [MODEL, "models:/b/1"]}).model == (MODEL, "models:/b/1")
    alone = Deployment.of({"model": MODEL})
    assert (alone.denoisers, alone.encoders, alone.state_folder) == ((1, 1), (1, 1), cache_folder() / "serve")
    assert Deployment.of({"model": MODEL, "state": "/var/x2i"}).state_folder == Path("/var/x2i")


@pytest.mark.parametrize(("text", "numbers"), [(3, (3, 3)), ("3", (3, 3)), ("1-4", (1, 4)), ("2-2", (2, 2))])
def test_replicas_are_a_number_or_a_range(text: str | int, numbers: tuple[int, int]) -> None:
    deployment = Deployment.of({"model": MODEL, "replicas": text, "encoder_replicas": text})
    assert (deployment.denoisers, deployment.encoders) == (numbers, numbers)


@pytest.mark.parametrize("text", [0, -1, 1.5, "", "many", "0-4", "4-1", "1-", "-4", "1-4-8", " 1", "1\n", "٣"])
def test_other_replicas_are_refused(text: Any) -> None:
    for name in ("replicas", "encoder_replicas"):
        with pytest.raises(ConfigError, match=rf"serving argument '{name}': "):
            Deployment.of({"model": MODEL, name: text})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "serving needs the argument 'model', such as models:/NAME@champion"),
        ({"model": []}, "serving argument 'model': Value should have at least 1 item"),
        ({"model": [5]}, "serving argument 'model': Input should be a valid string"),
        ({"model": MODEL, "replica": 2}, "unknown serving argument 'replica'; known: model, tracking_uri, replicas"),
        ({"modle": MODEL}, "unknown serving argument 'modle'"),
        ({"model": MODEL, "num_cpus": 0}, "serving argument 'num_cpus': Input should be greater than 0"),
        ({"model": MODEL, "num_gpus": -1}, "serving argument 'num_gpus': Input should be greater than or equal to 0"),
        ({"model": MODEL, "max_batch": 0}, "serving argument 'max_batch': "),
        ({"model": MODEL, "max_batch": "x"}, "serving argument 'max_batch': "),
        ({"model": MODEL, "follow_s": 0}, "serving argument 'follow_s': "),
        ({"model": MODEL, "recovery_s": float("nan")}, "serving argument 'recovery_s': "),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Deployment.of(arguments)
    assert str(caught.value).startswith(message)


def test_gpus_are_the_recipes_where_nothing_else_is_said(mini_recipe: Recipe) -> None:
    recipe = override(mini_recipe, ["run.mllm.num_gpus=0.25", "run.generate.num_gpus=2"])
    assert Deployment.of({"model": MODEL}).gpus(recipe) == Gpus(encoder=0.25, denoiser=2)
    told = Deployment.of({"model": MODEL, "num_gpus": 0, "encoder_gpus": 0})
    assert told.gpus(recipe) == Gpus(encoder=0, denoiser=0), "none is not nothing said"


def test_keys_are_required_unless_it_is_said_that_nobody_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="serving needs API keys: set X2I_API_KEYS to lines 'NAME KEY'"):
        Deployment.of({"model": MODEL}).guard({})
    assert Deployment.of({"model": MODEL, "anonymous": True}).guard({}).keys == ()
    file = tmp_path / "keys"
    file.write_text(f"ann {'k' * 40}\n")
    file.chmod(0o600)
    guard = Deployment.of({"model": MODEL, "api_keys": str(file), "guards": {"concurrent": 3}}).guard({})
    assert ([key.name for key in guard.keys], guard.concurrent) == (["ann"], 3)
    assert "k" * 40 not in repr(guard), "the key itself is not kept"


def test_keys_come_from_their_file_and_the_environment_alone() -> None:
    environment = {"X2I_API_KEYS": f"team {'k' * 40}"}
    [key] = Deployment.of({"model": MODEL, "guards": {"keys": []}}).guard(environment).keys
    assert key.name == "team"


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ({"concurent": 3}, "guard 'concurent': is unknown; there are "),
        ({"concurrent": "many"}, "guard 'concurrent': Input should be a valid integer"),
        ({"cors_origins": ["*"]}, "guard 'guards': cors_origins: '\\*' lets any web page use a service without keys"),
        ({"allowed_hosts": ["http://"]}, "guard 'allowed_hosts': "),
    ],
)
def test_a_wrong_guard_is_named(guards: dict[str, Any], message: str) -> None:
    deployment = Deployment.of({"model": MODEL, "anonymous": True, "guards": guards})
    with pytest.raises(ConfigError, match=message):
        deployment.guard({})


def test_a_finish_is_a_function_by_its_name() -> None:
    assert load_finish(None) is None
    finish = load_finish(f"{__name__}:grey")
    assert finish
    assert finish(Image.new("RGB", (2, 2), "red"), {}).getpixel((0, 0)) == (76, 76, 76)


@pytest.mark.parametrize(
    "name",
    ["", ":", "grey", "tests.serving", ":grey", f"{__name__}:nothing", "no.such.module:f", ".relative:f", "a b:c"],
)
def test_a_finish_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"finish '.*' can't be imported .*; give package.module:function"):
        load_finish(name)


def test_a_finish_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finish '.*:WIDTH' is no function but of type int"):
        load_finish(f"{__name__}:WIDTH")
