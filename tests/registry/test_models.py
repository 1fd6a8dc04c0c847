import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from safetensors.numpy import load_file, save_file

from x2i_platform.errors import RegistryError
from x2i_platform.registry.models import ModelVersion, list_models, register, require_name, resolve
from x2i_platform.registry.tracking import RunInfo, RunLogger, finish, start_or_resume

CARD = "---\nlicense: other\n---\n# A model\n\nWhat it is.\n"


def saved(folder: Path, *, value: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"conv.weight": np.full((1, 5, 5, 5), value, np.float32)}, folder / "alignnet.safetensors")
    dims = {"num_layers": 5, "hidden_size": 64, "text_tokens": 32, "prompt_dim": 48, "pooled_dim": 16}
    (folder / "config.json").write_text(json.dumps({"alignnet": {"fusion": "conv"}, "dims": dims}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(uri: str, *, key: str = "fingerprint") -> RunInfo:
    return start_or_resume(tracking_uri=uri, experiment="e", run_name="r", key=key, params={}, tags={})


def publish(folder: Path, info: RunInfo, *, name: str = "mini", **changes: Any) -> ModelVersion:
    return register(folder, name=name, info=info, manifest_digest="abc", card=CARD, **changes)


def test_a_registered_model_comes_back_whole_and_as_a_copy(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, info = saved(tmp_path / "final"), run(tracking_uri)
    version = publish(folder, info)
    assert (version.name, version.version, version.uri) == ("mini", 1, "models:/mini/1")
    there = resolve("models:/mini@candidate", tracking_uri=tracking_uri)
    assert there == resolve("models:/mini/1", tracking_uri=tracking_uri)
    assert contents(there) == contents(resolve(f"runs:/{info.run_id}/model", tracking_uri=tracking_uri))
    assert there.is_relative_to(tmp_path / "cache")
    assert {entry.name for entry in there.iterdir()} >= {"alignnet.safetensors", "config.json", "README.md", "MLmodel"}
    assert np.array_equal(load_file(there / "alignnet.safetensors")["conv.weight"], np.ones((1, 5, 5, 5)))
    assert (there / "README.md").read_text() == CARD
    assert sorted(entry.name for entry in folder.iterdir()) == ["alignnet.safetensors", "config.json"]
    assert not (tmp_path / "mlruns").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_the_version_says_what_it_came_from(tracking_uri: str, tmp_path: Path) -> None:
    info = run(tracking_uri)
    publish(saved(tmp_path / "final"), info)
    found = MlflowClient(tracking_uri).get_model_version("mini", "1")
    assert found.run_id == info.run_id
    assert found.tags["x2i.manifest"] == "abc"
    assert found.tags["x2i.fingerprint"] == "fingerprint"
    assert found.description == "# A model\n\nWhat it is.\n"


def test_registering_twice_gives_one_version(tracking_uri: str, tmp_path: Path) -> None:
    folder, info = saved(tmp_path / "final"), run(tracking_uri)
    first = publish(folder, info, aliases=())
    assert list_models(tracking_uri)[0].aliases == {}
    assert publish(folder, info) == first
    (model,) = list_models(tracking_uri)
    assert model.versions == (first,)
    assert model.aliases == {"candidate": 1}


def test_a_crash_between_logging_and_registering_is_repaired(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, info = saved(tmp_path / "final"), run(tracking_uri)

    def crash(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", crash)
        with pytest.raises(KeyboardInterrupt):
            publish(folder, info)
    version = publish(folder, info)
    assert version.version == 1
    assert resolve(version.uri, tracking_uri=tracking_uri).is_dir()


def test_other_weights_of_one_run_leave_the_first_version_as_it_was(tracking_uri: str, tmp_path: Path) -> None:
    info = run(tracking_uri)
    publish(saved(tmp_path / "final"), info)
    second = publish(saved(tmp_path / "final", value=2.0), info)
    assert second.version == 2
    values = [
        load_file(resolve(uri, tracking_uri=tracking_uri) / "alignnet.safetensors")["conv.weight"].max()
        for uri in ("models:/mini/1", "models:/mini/2", "models:/mini@candidate")
    ]
    assert values == [1.0, 2.0, 2.0]


def test_the_same_weights_with_another_recipe_are_not_mistaken_for_each_other(
    tracking_uri: str, tmp_path: Path
) -> None:
    for number in (1, 2):
        folder = saved(tmp_path / f"final {number}")
        (folder / "recipe.json").write_text(f'{{"name": "recipe {number}"}}')
        info = run(tracking_uri, key=f"fingerprint {number}")
        publish(folder, info)
        for uri in (f"models:/mini/{number}", f"runs:/{info.run_id}/model"):
            found = resolve(uri, tracking_uri=tracking_uri)
            assert (found / "recipe.json").read_text() == f'{{"name": "recipe {number}"}}'
    first = resolve("models:/mini/1", tracking_uri=tracking_uri)
    assert (first / "recipe.json").read_text() == '{"name": "recipe 1"}'


def test_other_settings_of_the_same_run_are_a_version_of_their_own(tracking_uri: str, tmp_path: Path) -> None:
    folder, info = saved(tmp_path / "final"), run(tracking_uri)
    versions = []
    for recipe in ('{"generate": 1, "train": 1}', '{"generate": 2}', '{"generate": 1, "train": 2, "run": {}}'):
        (folder / "recipe.json").write_text(recipe)
        versions.append(publish(folder, info).version)
    assert versions == [1, 2, 1], "how it was trained is no setting"
    drawn = [
        json.loads((resolve(f"models:/mini/{n}", tracking_uri=tracking_uri) / "recipe.json").read_text())
        for n in (1, 2)
    ]
    assert [recipe["generate"] for recipe in drawn] == [1, 2]


def test_the_latest_version_is_the_one_with_the_highest_number(tracking_uri: str, tmp_path: Path) -> None:
    info = run(tracking_uri)
    for value in (1.0, 2.0):
        publish(saved(tmp_path / "final", value=value), info, aliases=())
    latest = resolve("models:/mini/latest", tracking_uri=tracking_uri)
    assert load_file(latest / "alignnet.safetensors")["conv.weight"].max() == 2.0
    MlflowClient(tracking_uri).create_registered_model("empty")
    with pytest.raises(RegistryError, match="model 'empty' has no version latest; versions there: none"):
        resolve("models:/empty/latest", tracking_uri=tracking_uri)


@pytest.mark.parametrize("neighbour", ["it's", 'a "b"', """it's "b\""""])
def test_names_of_neighbours_may_hold_quotes(tracking_uri: str, tmp_path: Path, neighbour: str) -> None:
    publish(saved(tmp_path / "final"), run(tracking_uri))
    client = MlflowClient(tracking_uri)
    client.create_registered_model(neighbour)
    client.create_model_version(neighbour, source=str(tmp_path))
    assert {model.name: len(model.versions) for model in list_models(tracking_uri)} == {"mini": 1, neighbour: 1}


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a@b", "it's", 'a"b', " padded"])
def test_a_name_that_no_uri_can_hold_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match="is not usable; it must not be empty or hold / : @ or quotes"):
        require_name(name)


def test_an_old_run_does_not_take_the_alias_back(tracking_uri: str, tmp_path: Path) -> None:
    old, new = run(tracking_uri, key="old"), run(tracking_uri, key="new")
    publish(saved(tmp_path / "old"), old)
    publish(saved(tmp_path / "new"), new)
    publish(saved(tmp_path / "old"), old)
    (model,) = list_models(tracking_uri)
    assert [version.version for version in model.versions] == [1, 2]
    assert model.aliases == {"candidate": 2}


def test_changed_files_in_the_store_are_not_served(tracking_uri: str, tmp_path: Path) -> None:
    version = publish(saved(tmp_path / "final"), run(tracking_uri))
    (stored,) = (tmp_path / "my runs #1 ü" / "mlartifacts").rglob("alignnet.safetensors")
    saved(stored.parent, value=3.0)
    with pytest.raises(RegistryError, match="not those registered"):
        resolve(version.uri, tracking_uri=tracking_uri)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("models:/minu@candidate", "no model 'minu'; did you mean 'mini'? models there: mini"),
        ("models:/mini@candidat", "no alias 'candidat'; did you mean 'candidate'? aliases there: candidate"),
        ("models:/mini/7", "model 'mini' has no version 7; versions there: 1"),
        ("models:/mini", "malformed; use models:/NAME@ALIAS"),
        ("models:/mini/newest", "malformed; use models:/NAME@ALIAS"),
        ("runs:/abc", "malformed"),
        ("runs:/abc/model", "abc"),
        ("no/such/folder", "no such folder; use models:/NAME@ALIAS"),
        (".", "has no alignnet.safetensors and no config.json"),
    ],
)
def test_a_model_that_is_not_there_is_one_clear_line(
    model: str, message: str, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(saved(tmp_path / "final"), run(tracking_uri))
    with pytest.raises(RegistryError, match=re.escape(message)) as caught:
        resolve(model, tracking_uri=tracking_uri)
    assert "\n" not in str(caught.value)


def test_asking_creates_no_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    with pytest.raises(RegistryError, match="no MLflow database"):
        resolve("models:/mini@candidate", tracking_uri=uri)
    assert list_models(uri) == []
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_server_keeps_models_like_a_file_does(
    mlflow_server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    info = run(mlflow_server)
    with RunLogger(info) as log:
        log.metrics({"loss": 1.0}, step=0)
    version = publish(saved(tmp_path / "final"), info)
    assert publish(saved(tmp_path / "final"), info) == version
    there = resolve("models:/mini@candidate", tracking_uri=mlflow_server)
    assert contents(there) == contents(resolve(f"runs:/{info.run_id}/model", tracking_uri=mlflow_server))
    assert load_file(there / "alignnet.safetensors")["conv.weight"].max() == 1.0
    with pytest.raises(RegistryError, match="did you mean 'mini'"):
        resolve("models:/mimi@candidate", tracking_uri=mlflow_server)
    finish(info)
    assert capfd.readouterr().out == ""


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = saved(tmp_path / "final")
    assert resolve(str(folder), tracking_uri=f"sqlite:///{tmp_path}/mlflow.db") == folder


def test_only_plain_files_are_registered(tracking_uri: str, tmp_path: Path) -> None:
    folder, info = saved(tmp_path / "final"), run(tracking_uri)
    with pytest.raises(RegistryError, match="not usable"):
        publish(folder, info, name="a/b")
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"optimizer\.pt can't be registered"):
        publish(folder, info)
    (folder / "optimizer.pt").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match="num_layers"):
        publish(folder, info)
    (folder / "config.json").unlink()
    with pytest.raises(RegistryError, match=r"no config\.json"):
        publish(folder, info)
