"""What MLflow reads about a version before it loads anything."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow.models
import pytest

from tests.registered import registered
from x2i_platform.errors import RegistryError
from x2i_platform.registry.flavours import mlflow_model
from x2i_platform.registry.models import list_models


def test_a_version_has_a_table_of_prompts_and_alignnets_tensors(tracking_uri: str, tmp_path: Path) -> None:
    registered(tracking_uri, tmp_path / "final")
    [version] = list_models(tracking_uri)[0].versions
    stored = mlflow.models.Model.load(version.source)
    columns = {column.name: (column.type.name, column.required) for column in stored.signature.inputs}
    assert columns["prompt"] == ("string", True)
    assert not any(required for name, (_, required) in columns.items() if name != "prompt")
    assert [column.name for column in stored.signature.outputs] == ["png_base64", "seed", "answer"]
    tensors = stored.flavors["x2i_platform"]["tensors"]
    shapes = {spec["name"]: tuple(spec["tensor-spec"]["shape"]) for kind in tensors.values() for spec in kind}
    assert shapes == {
        "hidden_states": (-1, 5, -1, 64),
        "mask": (-1, -1),
        "prompt_embeds": (-1, -1, 48),
        "pooled": (-1, 16),
    }


def test_mlflow_is_sent_to_no_index_and_to_no_pickle(tracking_uri: str, tmp_path: Path) -> None:
    registered(tracking_uri, tmp_path / "final")
    [version] = list_models(tracking_uri)[0].versions
    flavour = mlflow.models.Model.load(version.source).flavors["python_function"]
    assert flavour["loader_module"] == "x2i_platform.pyfunc"
    assert not {"env", "code", "data", "python_model"} & set(flavour)
    endings = {path.suffix for path in Path(version.source).iterdir()}
    assert endings == {".safetensors", ".json", ".md", ""}


@pytest.mark.parametrize(("config", "part"), [("{}", "doesn't say num_layers"), ("{cut", "is not JSON")])
def test_a_config_without_sizes_is_refused(tmp_path: Path, config: str, part: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RegistryError, match=part):
        mlflow_model(tmp_path, path="model", run_id="run")
    (tmp_path / "config.json").write_text(json.dumps({"alignnet": {}, "dims": {}}))
    with pytest.raises(RegistryError, match="num_layers, hidden_size"):
        mlflow_model(tmp_path, path="model", run_id="run")
