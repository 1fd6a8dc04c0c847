"""An alias and those who held it, in a real MLflow database."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.registered import holder, registered
from x2i_platform.errors import RegistryError
from x2i_platform.registry.aliases import MAX_HOLDERS, holders, move, step_back


@pytest.fixture
def client(tracking_uri: str, tmp_path: Path) -> MlflowClient:
    """A registry with versions 1 to 3 of `mini`."""
    for number in (1, 2, 3):
        registered(tracking_uri, tmp_path / str(number), value=number)
    return MlflowClient(tracking_uri)


def past(client: MlflowClient) -> list[int]:
    return [each.version for each in holders(client.get_registered_model("mini"), "champion")]


def moved(client: MlflowClient, *versions: int) -> list[int | None]:
    return [move(client, "mini", alias="champion", version=version) for version in versions]


def back(client: MlflowClient, existing: tuple[int, ...] = (1, 2, 3)) -> int:
    return step_back(client, "mini", alias="champion", existing=existing)[0]


def test_a_rollback_walks_back_through_all_holders_and_then_stops(client: MlflowClient) -> None:
    assert moved(client, 1, 2, 2, 1, 3) == [None, 1, 2, 2, 1]
    assert past(client) == [1, 2, 1, 3], "a move to where the alias is leaves nothing"
    assert [back(client) for _ in range(3)] == [1, 2, 1]
    with pytest.raises(RegistryError, match="no earlier 'champion' to go back to; move it by `x2i-platform models"):
        back(client)
    assert moved(client, 3) == [1]
    assert back(client) == 1


def test_what_was_set_elsewhere_is_remembered_too(client: MlflowClient, tracking_uri: str) -> None:
    client.set_registered_model_alias("mini", "champion", "2")
    moved(client, 3)
    assert back(client) == 2
    moved(client, 3)
    client.set_registered_model_alias("mini", "champion", "1")
    assert back(client) == 3
    assert holder(tracking_uri, "candidate") == 3, "another alias stays where it was"


def test_versions_that_were_deleted_are_passed_over(client: MlflowClient) -> None:
    moved(client, 1, 2, 3)
    client.delete_model_version("mini", "2")
    assert back(client, existing=(1, 3)) == 1
    moved(client, 3)
    client.delete_model_version("mini", "3")
    assert back(client, existing=(1,)) == 1, "MLflow drops the alias of a deleted version"


def test_a_bounded_number_of_holders_is_remembered(client: MlflowClient) -> None:
    moved(client, *(1 + number % 2 for number in range(MAX_HOLDERS + 5)))
    assert len(past(client)) == MAX_HOLDERS
    assert back(client) == 2


@pytest.mark.parametrize("name", ["set_registered_model_alias", "set_registered_model_tag"])
def test_a_move_that_was_killed_is_set_right_by_the_next(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, tracking_uri: str, name: str
) -> None:
    moved(client, 1, 2)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, name, killed)
        with pytest.raises(KeyboardInterrupt):
            moved(client, 3)
    moved(client, 3)
    assert holder(tracking_uri) == 3
    assert back(client) == 2


def test_a_rollback_that_was_killed_is_not_lost(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(client, 1, 2, 3)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            back(client)
    assert [back(client), back(client)] == [2, 1]


@pytest.mark.parametrize(("kept", "walk"), [(2, [3, 1]), (3, [2, 1])])
def test_of_moves_at_once_the_one_that_the_alias_kept_was_the_last(
    client: MlflowClient, kept: int, walk: list[int]
) -> None:
    moved(client, 1)
    for tag, version in (("a", "3"), ("b", "2")):
        client.set_registered_model_tag("mini", f"x2i.history.champion.000002.{tag}", version)
    client.set_registered_model_alias("mini", "champion", str(kept))
    assert [back(client), back(client)] == walk


def test_moves_at_once_forget_no_holder(client: MlflowClient, tracking_uri: str) -> None:
    moved(client, 1)
    threads = [threading.Thread(target=moved, args=(client, version)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(past(client)) == [1, 2, 3]
    assert holder(tracking_uri) == past(client)[-1]
