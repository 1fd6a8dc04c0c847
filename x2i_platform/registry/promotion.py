"""Moves aliases on a user's word: `champion` only to a version whose gate holds, and back to who held it before.

Invariants: a version without a passed gate becomes champion only by force, and then its tag `x2i.forced` says so; a
rollback asks no gate, since it returns to a version that was champion already.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlflow.entities.model_registry as entities

from x2i_platform.errors import RegistryError, raising
from x2i_platform.registry.aliases import move, step_back
from x2i_platform.registry.connection import OUTSIDE, connect
from x2i_platform.registry.evaluations import CHAMPION, GATE_TAG, REASON_TAG
from x2i_platform.registry.models import MODEL_URI, find_version, require_database, require_name, versions_of

FORCED_TAG = "x2i.forced"


@dataclass(frozen=True)
class Moved:
    """Where an alias points now, and pointed before; `previous` is None for a new alias."""

    alias: str
    model: str
    previous: str | None
    forced: bool = False


def promote(model: str, *, alias: str = CHAMPION, force: bool = False, tracking_uri: str) -> Moved:
    """Point an alias at the version that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names.

    The same promotion again changes nothing. Raises RegistryError if the version isn't there, or if it is to be
    champion and no gate of `evaluate` has passed; `force` does it nevertheless and tags the version `x2i.forced`.
    """
    named = MODEL_URI.fullmatch(model)
    if named is None:
        raise RegistryError(f"model {model!r} names no version; use models:/NAME/VERSION or models:/NAME@ALIAS")
    require_database(model, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with raising(RegistryError, f"alias {alias!r} can't be moved to {model!r}", OUTSIDE):
        version = find_version(client, named.group(1), alias=named.group(2), number=named.group(3))
        complaint = _gate_complaint(version) if alias == CHAMPION else None
        if complaint and not force:
            raise RegistryError(f"{complaint}, or use --force")
        if complaint:
            client.set_model_version_tag(version.name, version.version, FORCED_TAG, alias)
        before = move(client, version.name, alias=alias, version=int(version.version))
    return _moved(version.name, alias=alias, version=int(version.version), before=before, forced=bool(complaint))


def rollback(name: str, *, alias: str = CHAMPION, tracking_uri: str) -> Moved:
    """Point a model's alias at the version that held it before; again, at the one before that.

    Raises RegistryError if there is no such model, or no earlier holder.
    """
    name = name.removeprefix("models:/")
    require_name(name)
    require_database(name, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with raising(RegistryError, f"alias {alias!r} of model {name!r} can't be moved back", OUTSIDE):
        find_version(client, name, alias=None, number="latest")
        existing = {int(version.version) for version in versions_of(client, name)}
        version, before = step_back(client, name, alias=alias, existing=existing)
    return _moved(name, alias=alias, version=version, before=before)


def _gate_complaint(version: entities.ModelVersion) -> str | None:
    """Why a version may not be champion, and what would change that; None if its gate holds."""
    uri, verdict = f"models:/{version.name}/{version.version}", version.tags.get(GATE_TAG)
    if verdict == "passed":
        return None
    why = f"failed its gate ({version.tags.get(REASON_TAG, 'no reason kept')})" if verdict else "has passed no gate"
    return f"{uri} {why}; run `x2i-platform evaluate {uri} --gate max_drop=0.01`"


def _moved(name: str, *, alias: str, version: int, before: int | None, forced: bool = False) -> Moved:
    previous = None if before is None else f"models:/{name}/{before}"
    return Moved(f"models:/{name}@{alias}", f"models:/{name}/{version}", previous, forced)
