"""Aliases move here alone, and remember who held them: `champion` can go back as far as it is remembered.

The registered model has one tag a past or present holder, `x2i.history.ALIAS.NUMBER.RANDOM` with the version as value,
in rising order of the number. Invariants: two moves at once never lose each other's holder, because each writes a tag
of its own; a process killed in the middle leaves an alias that a rerun or a rollback sets right.

MLflow can't compare and set an alias. Of two moves at once the alias keeps the one that was written last; on a SQLite
file the moves of one machine wait for each other.
"""

from __future__ import annotations

import uuid
from collections.abc import Container
from typing import NamedTuple

import mlflow.entities.model_registry as entities
from mlflow import MlflowClient

from x2i_platform.errors import RegistryError
from x2i_platform.registry.connection import database_lock

HISTORY_TAG = "x2i.history"
MAX_HOLDERS = 20
"""Holders of an alias that are remembered; a rollback can't go further back."""


class Holder(NamedTuple):
    """A version that holds or held an alias, with the tag that says so."""

    number: int
    tag: str
    version: int


def move(client: MlflowClient, name: str, *, alias: str, version: int) -> int | None:
    """Point an alias at a version. Returns the version it pointed at before, None if there was no such alias."""
    with database_lock(client.tracking_uri):
        model = client.get_registered_model(name)
        before, past = _now(model, alias), holders(model, alias)
        if before == version:
            return before
        # An alias that was set elsewhere, such as in MLflow's pages, is remembered now.
        if before is not None and (not past or past[-1].version != before):
            past.append(_remember(client, name, alias=alias, version=before, after=past))
        client.set_registered_model_alias(name, alias, str(version))
        past.append(_remember(client, name, alias=alias, version=version, after=past))
        for old in past[:-MAX_HOLDERS]:
            client.delete_registered_model_tag(name, old.tag)
        return before


def step_back(client: MlflowClient, name: str, *, alias: str, existing: Container[int]) -> tuple[int, int | None]:
    """Point an alias at its holder before the present one, past those that no longer exist.

    Returns the version now and before. Raises RegistryError if no earlier holder is left.
    """
    with database_lock(client.tracking_uri):
        model = client.get_registered_model(name)
        before = _now(model, alias)
        # Of moves at once, which wrote the same number, the one that the alias kept was the last.
        past = sorted(holders(model, alias), key=lambda holder: (holder.number, holder.version == before))
        left = len(past)
        while left and (past[left - 1].version == before or past[left - 1].version not in existing):
            left -= 1
        if not left:
            raise RegistryError(
                f"model {name!r} has no earlier {alias!r} to go back to; move it by "
                f"`x2i-platform models promote models:/{name}/VERSION --alias {alias}`"
            )
        # Forgotten first: killed in between, the next rollback still finds the right holder.
        for holder in past[left:]:
            client.delete_registered_model_tag(name, holder.tag)
        target = past[left - 1].version
        client.set_registered_model_alias(name, alias, str(target))
        return target, before


def holders(model: entities.RegisteredModel, alias: str) -> list[Holder]:
    """The remembered holders of an alias, oldest first."""
    prefix = f"{HISTORY_TAG}.{alias}."
    found = []
    for tag, version in model.tags.items():
        number = tag.removeprefix(prefix).partition(".")[0]
        if tag.startswith(prefix) and number.isdecimal() and version.isdecimal():
            found.append(Holder(int(number), tag, int(version)))
    return sorted(found)


def _now(model: entities.RegisteredModel, alias: str) -> int | None:
    version = model.aliases.get(alias)
    return None if version is None else int(version)


def _remember(client: MlflowClient, name: str, *, alias: str, version: int, after: list[Holder]) -> Holder:
    """Write a holder's tag. The random part keeps apart what two processes write under the same number."""
    number = after[-1].number + 1 if after else 1
    holder = Holder(number, f"{HISTORY_TAG}.{alias}.{number:06d}.{uuid.uuid4().hex[:8]}", version)
    client.set_registered_model_tag(name, holder.tag, str(version))
    return holder
