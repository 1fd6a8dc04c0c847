"""Promotion and rollback, as the command line asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.registered import holder, registered
from x2i_platform.errors import RegistryError
from x2i_platform.registry.evaluations import record_gate
from x2i_platform.registry.promotion import FORCED_TAG, Moved, promote, rollback


@pytest.fixture
def uri(tracking_uri: str, tmp_path: Path) -> str:
    """A registry with versions 1 to 3 of `mini`."""
    for number in (1, 2, 3):
        registered(tracking_uri, tmp_path / str(number), value=number)
    return tracking_uri


def gate(uri: str, version: int, *, holds: bool = True) -> None:
    record_gate(f"models:/mini/{version}", holds=holds, reason="−9 points", tracking_uri=uri)


def test_only_a_version_whose_gate_holds_becomes_champion(uri: str) -> None:
    for verdict in ("has passed no gate", r"failed its gate \(−9 points\)"):
        with pytest.raises(RegistryError, match=f"models:/mini/2 {verdict}; run `x2i-platform evaluate "):
            promote("models:/mini/2", tracking_uri=uri)
        gate(uri, 2, holds=False)
    assert holder(uri) is None
    gate(uri, 2)
    gate(uri, 1)
    moved = Moved("models:/mini@champion", "models:/mini/2", "models:/mini/1")
    assert promote("models:/mini/2", tracking_uri=uri) == moved
    again = promote("models:/mini/2", tracking_uri=uri)
    assert (again.model, again.previous) == ("models:/mini/2", "models:/mini/2")


def test_force_is_recorded_on_the_version_and_only_where_it_was_needed(uri: str) -> None:
    gate(uri, 1)
    assert not promote("models:/mini/1", force=True, tracking_uri=uri).forced
    moved = promote("models:/mini@candidate", force=True, tracking_uri=uri)
    assert (moved.model, moved.forced, holder(uri)) == ("models:/mini/3", True, 3)
    tags = [MlflowClient(uri).get_model_version("mini", number).tags for number in ("1", "3")]
    assert [found.get(FORCED_TAG) for found in tags] == [None, "champion"]


def test_a_rollback_goes_back_through_what_gates_and_people_moved(uri: str) -> None:
    gate(uri, 1)
    gate(uri, 2)
    promote("models:/mini/3", force=True, tracking_uri=uri)
    assert rollback("mini", tracking_uri=uri) == Moved("models:/mini@champion", "models:/mini/2", "models:/mini/3")
    assert rollback("models:/mini", tracking_uri=uri).model == "models:/mini/1"
    with pytest.raises(RegistryError, match="model 'mini' has no earlier 'champion'"):
        rollback("mini", tracking_uri=uri)
    assert holder(uri) == 1


def test_another_alias_asks_no_gate_and_has_a_history_of_its_own(uri: str) -> None:
    gate(uri, 3)
    for version in (1, 2):
        promote(f"models:/mini/{version}", alias="staging", tracking_uri=uri)
    assert rollback("mini", alias="staging", tracking_uri=uri).model == "models:/mini/1"
    assert rollback("mini", alias="candidate", tracking_uri=uri).model == "models:/mini/2"
    assert holder(uri) == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mini", "names no version; use models:/NAME/VERSION"),
        ("models:/mini/9", "has no version 9; versions there: 1, 2, 3"),
        ("models:/mimi/1", "there is no model 'mimi'; did you mean 'mini'"),
    ],
)
def test_what_can_not_be_promoted_is_one_clear_line(uri: str, model: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message) as caught:
        promote(model, tracking_uri=uri)
    assert "\n" not in str(caught.value)


def test_aliases_that_can_not_be_are_refused(uri: str) -> None:
    with pytest.raises(RegistryError, match="alias 'a b' can't be moved to 'models:/mini/1': Invalid alias name"):
        promote("models:/mini/1", alias="a b", tracking_uri=uri)
    with pytest.raises(RegistryError, match="there is no model 'mimi'"):
        rollback("mimi", tracking_uri=uri)


def test_asking_creates_no_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/none/mlflow.db"
    with pytest.raises(RegistryError, match="there is no MLflow database"):
        promote("models:/mini/1", tracking_uri=uri)
    with pytest.raises(RegistryError, match="there is no MLflow database"):
        rollback("mini", tracking_uri=uri)
    assert not (tmp_path / "none").exists()
