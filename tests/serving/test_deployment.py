"""The arguments of a service: what they mean, and how a wrong one is told."""

from __future__ import annotations

from typing import Any

import pytest

from x2i_platform.config import Recipe
from x2i_platform.errors import ConfigError
from x2i_platform.serving.deployment import Deployment, load_finish

KEYS = {"X2I_API_KEYS": "team 0123456789abcdef0123456789"}


def test_numbers_ranges_and_gpus(mini_recipe: Recipe) -> None:
    plain = Deployment.of({"model": "models:/a@champion"})
    assert (plain.model, plain.denoisers, plain.encoders) == (("models:/a@champion",), (1, 1), (1, 1))
    assert plain.gpus(mini_recipe).denoiser == mini_recipe.run.generate.num_gpus
    chosen = Deployment.of({"model": ["a", "b"], "replicas": "2-4", "encoder_replicas": 3, "encoder_gpus": 0.4})
    assert (chosen.denoisers, chosen.encoders, chosen.gpus(mini_recipe).encoder) == ((2, 4), (3, 3), 0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modle": "x"}, "unknown serving argument 'modle'; known: model, tracking_uri, replicas"),
        ({}, "serving needs the argument 'model', such as models:/NAME@champion"),
        ({"model": []}, "serving argument 'model': Value should have at least 1 item"),
        ({"model": "m", "replicas": "4-2"}, "serving argument 'replicas': '4-2' is neither a number nor a range"),
        ({"model": "m", "replicas": "0"}, "serving argument 'replicas': '0' is neither a number nor a range"),
        ({"model": "m", "max_batch": 0}, "serving argument 'max_batch': Input should be greater than or equal to 1"),
        ({"model": "m", "num_gpus": -1}, "serving argument 'num_gpus': Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Deployment.of(arguments)
    assert str(caught.value).startswith(message)


def test_keys_are_needed_unless_it_is_said_otherwise() -> None:
    with pytest.raises(ConfigError, match="serving needs API keys: set X2I_API_KEYS to lines 'NAME KEY'"):
        Deployment.of({"model": "m"}).guard({})
    assert Deployment.of({"model": "m", "anonymous": True}).guard({}).keys == ()
    [key] = Deployment.of({"model": "m"}).guard(KEYS).keys
    assert key.name == "team"
    assert "0123456789abcdef" not in repr(key)


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ({"concurent": 3}, "guard 'concurent': is unknown; there are requests_per_minute, concurrent"),
        ({"concurrent": 0}, "guard 'concurrent': Input should be greater than or equal to 1"),
        ({"allowed_hosts": ["ftp://x"]}, "guard 'allowed_hosts': allowed host 'ftp://x'"),
        ({"keys": []}, None),
    ],
)
def test_a_wrong_guard_is_named(guards: dict[str, Any], message: str | None) -> None:
    deployment = Deployment.of({"model": "m", "guards": guards})
    if message is None:
        assert deployment.guard(KEYS).keys, "keys come from their file and the environment alone"
        return
    with pytest.raises(ConfigError) as caught:
        deployment.guard(KEYS)
    assert str(caught.value).startswith(message)


def test_a_finish_is_a_function_of_a_module() -> None:
    assert load_finish(None) is None
    assert load_finish("PIL.ImageOps:invert") is not None
    for name in ("nowhere.at_all:f", "PIL.ImageOps:nothing", "PIL.ImageOps", ":f"):
        with pytest.raises(ConfigError, match="can't be imported"):
            load_finish(name)
