"""The registered models as a list: what there is, which version an alias points at, and what its gate said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow.entities.model_registry import ModelVersion

from x2i_platform.errors import RegistryError, raising
from x2i_platform.registry.connection import OUTSIDE, connect, sqlite_file
from x2i_platform.registry.evaluations import GATE_TAG
from x2i_platform.registry.models import aliases_of, all_models, versions_of

NO_VERDICT = "none"


@dataclass(frozen=True)
class Row:
    """A registered model. `gate` has the verdict of each alias's version, `created` is the newest version's date."""

    name: str
    versions: int
    aliases: Mapping[str, int]
    gate: Mapping[str, str]
    created: str


def list_rows(tracking_uri: str) -> list[Row]:
    """Each registered model: how many versions it has, its aliases with their verdicts, when the newest was made.

    None without a database. Raises RegistryError.
    """
    database = sqlite_file(tracking_uri)
    if database is not None and not database.exists():
        return []
    client = connect(tracking_uri)
    rows = []
    with raising(RegistryError, f"models of {tracking_uri} can't be listed", OUTSIDE):
        for model in all_models(client):
            versions, aliases = versions_of(client, model.name), aliases_of(model)
            verdicts = {int(version.version): verdict_of(version) for version in versions}
            gate = {alias: verdicts[version] for alias, version in aliases.items() if version in verdicts}
            created = time_of(versions[-1].creation_timestamp if versions else model.creation_timestamp)
            rows.append(Row(model.name, len(versions), aliases, gate, created))
    return rows


def verdict_of(version: ModelVersion) -> str:
    """What the last gate said: `passed`, `failed` or `none`."""
    return str(version.tags.get(GATE_TAG, NO_VERDICT))


def time_of(stamp_ms: int) -> str:
    """MLflow's milliseconds as a date of ISO 8601, in UTC."""
    return datetime.fromtimestamp(stamp_ms / 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
