"""The list of registered models."""

from __future__ import annotations

import re
from pathlib import Path

from mlflow import MlflowClient

from tests.registered import registered
from x2i_platform.registry.evaluations import record_gate
from x2i_platform.registry.listing import list_rows


def test_a_row_has_the_verdicts_of_the_versions_that_aliases_point_at(tracking_uri: str, tmp_path: Path) -> None:
    for number in (1, 2):
        registered(tracking_uri, tmp_path / str(number), value=number)
    record_gate("models:/mini/1", holds=True, reason="within", tracking_uri=tracking_uri)
    MlflowClient(tracking_uri).create_registered_model("empty")
    empty, mini = list_rows(tracking_uri)
    assert (empty.name, empty.versions, empty.aliases, empty.gate) == ("empty", 0, {}, {})
    assert (mini.name, mini.versions) == ("mini", 2)
    assert mini.aliases == {"candidate": 2, "champion": 1}
    assert mini.gate == {"candidate": "none", "champion": "passed"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", mini.created)


def test_without_a_database_there_is_nothing(tmp_path: Path) -> None:
    assert list_rows(f"sqlite:///{tmp_path}/none/mlflow.db") == []
    assert not (tmp_path / "none").exists()
