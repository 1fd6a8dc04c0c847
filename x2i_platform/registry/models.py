"""Registered models: a folder of plain files becomes a version, and a version becomes a folder again.

Invariants: the same run, weights and settings give the same version, however often they are registered; a version's
files are never overwritten; a resolved model holds exactly the bytes that were registered.
"""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import mlflow.entities.model_registry as entities
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from x2i_platform.digests import digest
from x2i_platform.errors import RegistryError, raising
from x2i_platform.mini.checkpoints import folder_of
from x2i_platform.models.model_folder import CARD_FILE
from x2i_platform.registry.aliases import move
from x2i_platform.registry.artifacts import (
    content_digest,
    fetch,
    require_model,
    require_plain,
    settings_digest,
)
from x2i_platform.registry.connection import OUTSIDE, connect, sqlite_file
from x2i_platform.registry.flavours import mlflow_model
from x2i_platform.registry.tracking import KEY_TAG, MANIFEST_TAG, RunInfo

CONTENT_TAG = "x2i.content"
SETTINGS_TAG = "x2i.settings"
FINGERPRINT_TAG = "x2i.fingerprint"
MAX_DESCRIPTION_LENGTH = 5000
MINI_PREFIX = "mini:"
MODEL_NAME = re.compile(r"[^/:@'\"]+")
MODEL_URI = re.compile(r"models:/([^/:]+?)(?:@([^/@:]+)|/([1-9][0-9]*|latest))")
RUN_URI = re.compile(r"runs:/([^/]+)/(.+)")
HOW_TO_NAME = "use models:/NAME@ALIAS, models:/NAME/VERSION (or latest), runs:/RUN_ID/PATH, a folder or mini:alignnet"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version. `uri` is `models:/NAME/VERSION`; `source` is where its files are stored."""

    name: str
    version: int
    uri: str
    source: str


@dataclass(frozen=True)
class RegisteredModel:
    """A model's name, its versions in rising order, and which version each alias points at."""

    name: str
    versions: tuple[ModelVersion, ...]
    aliases: Mapping[str, int] = field(default_factory=dict)


def register(
    folder: Path,
    *,
    name: str,
    info: RunInfo,
    manifest_digest: str,
    card: str,
    tags: Mapping[str, str] = MappingProxyType({}),
    aliases: Sequence[str] = ("candidate",),
) -> ModelVersion:
    """Log a folder with `alignnet.safetensors` and `config.json` to the run and register it as a version of `name`.

    `card` (Markdown) becomes its README.md and description, `tags` the version's, beside ours. An alias only ever
    moves to a newer version here: a repeated old training takes nothing from a later one. Raises RegistryError.
    """
    require_plain(folder)
    require_name(name)
    client = connect(info.tracking_uri)
    with raising(RegistryError, f"model {name!r} can't be registered", OUTSIDE):
        _create_model(client, name)
        content, settings = content_digest(folder), settings_digest(folder)
        versions = client.search_model_versions(f"name='{name}' and run_id='{info.run_id}'")
        found = next((version for version in versions if _holds(version, content=content, settings=settings)), None)
        if found is None:
            # A version's files are never overwritten: other files of the same run go to a folder beside them.
            path = "model" if not versions else f"model-{digest([content, settings])[:12]}"
            run = client.get_run(info.run_id)
            _log_files(client, folder, run_id=info.run_id, path=path, card=card)
            own = {
                CONTENT_TAG: content,
                SETTINGS_TAG: settings,
                MANIFEST_TAG: manifest_digest,
                FINGERPRINT_TAG: run.data.tags.get(KEY_TAG, ""),
            }
            found = client.create_model_version(
                name, f"{run.info.artifact_uri}/{path}", info.run_id, tags={**tags, **own}, description=_words(card)
            )
        for alias in aliases:
            _advance(client, name, alias=alias, version=int(found.version))
    return _version(found)


def registered_as(folder: Path, *, name: str, tracking_uri: str) -> ModelVersion | None:
    """The version of `name` that holds this folder's weights and settings, if there is one. Raises RegistryError."""
    client = connect(tracking_uri)
    content, settings = content_digest(folder), settings_digest(folder)
    with raising(RegistryError, f"model {name!r} can't be looked up", OUTSIDE):
        page = client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1000)
        found = (version for version in page if _holds(version, content=content, settings=settings))
        return next(map(_version, found), None)


def require_name(name: str) -> None:
    """Raise RegistryError for a name that no model can be registered under."""
    if not MODEL_NAME.fullmatch(name) or name != name.strip():
        raise RegistryError(f"model name {name!r} is not usable; it must not be empty or hold / : @ or quotes")


def resolve(model: str, *, tracking_uri: str) -> Path:
    """A local folder with the model's plain files.

    `model` is `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID/PATH` (copied into a private cache, and
    checked against the digest it was registered with), a folder (returned as it is) or `mini:alignnet`, the miniature
    that ships. Raises RegistryError, WeightsError for another miniature.
    """
    if model.startswith(MINI_PREFIX):
        folder = folder_of(model.removeprefix(MINI_PREFIX))
        require_model(folder, label=model)
        return folder
    if not model.startswith(("models:", "runs:")):
        folder = Path(model)
        if not folder.is_dir():
            raise RegistryError(f"model {model!r}: there is no such folder; {HOW_TO_NAME}")
        require_model(folder, label=str(folder))
        return folder
    registered, logged = MODEL_URI.fullmatch(model), RUN_URI.fullmatch(model)
    if registered is None and logged is None:
        raise RegistryError(f"model {model!r} is malformed; {HOW_TO_NAME}")
    require_database(model, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with raising(RegistryError, f"model {model!r} can't be fetched", OUTSIDE):
        if registered is not None:
            version = find_version(client, registered.group(1), alias=registered.group(2), number=registered.group(3))
            source = client.get_model_version_download_uri(version.name, version.version)
            content = version.tags.get(CONTENT_TAG)
        elif logged is not None:
            source, content = f"{client.get_run(logged.group(1)).info.artifact_uri}/{logged.group(2)}", None
        return fetch(source, label=model, content=content, tracking_uri=client.tracking_uri)


def require_database(model: str, *, tracking_uri: str) -> None:
    """Raise RegistryError for a SQLite file that isn't there, which asking for a model would create."""
    database = sqlite_file(tracking_uri)
    if database is not None and not database.exists():
        raise RegistryError(f"model {model!r}: there is no MLflow database {database}; give the right tracking URI")


def list_models(tracking_uri: str) -> list[RegisteredModel]:
    """All registered models by name; none without a database. Raises RegistryError."""
    database = sqlite_file(tracking_uri)
    if database is not None and not database.exists():
        return []
    client = connect(tracking_uri)
    with raising(RegistryError, f"models of {tracking_uri} can't be listed", OUTSIDE):
        return [_registered(client, found) for found in all_models(client)]


def _holds(version: entities.ModelVersion, *, content: str, settings: str) -> bool:
    """Whether a version has these weights and settings; one from before settings were stored counts as a match."""
    tags = version.tags
    return bool(tags.get(CONTENT_TAG) == content and tags.get(SETTINGS_TAG, settings) == settings)


def _log_files(client: MlflowClient, folder: Path, *, run_id: str, path: str, card: str) -> None:
    model = mlflow_model(folder, path=path, run_id=run_id)
    with tempfile.TemporaryDirectory() as extras:
        model.save(Path(extras) / "MLmodel")
        (Path(extras) / CARD_FILE).write_text(card, encoding="utf-8")
        client.log_artifacts(run_id, str(folder), path)
        client.log_artifacts(run_id, extras, path)


def _words(card: str) -> str:
    """A card as MLflow's pages show it: without the front matter, and cut."""
    return re.sub(r"\A---\n.*?\n---\n+", "", card, flags=re.DOTALL)[:MAX_DESCRIPTION_LENGTH]


def _create_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _advance(client: MlflowClient, name: str, *, alias: str, version: int) -> None:
    current = client.get_registered_model(name).aliases.get(alias, 0)
    if int(current) < version:
        move(client, name, alias=alias, version=version)


def find_version(client: MlflowClient, name: str, *, alias: str | None, number: str | None) -> entities.ModelVersion:
    """The version that an alias or a number names. Raises RegistryError, naming what is there instead."""
    try:
        model = _registered(client, client.get_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        known = [found.name for found in all_models(client)]
        raise RegistryError(f"there is no model {name!r}; {_known('models', known, wanted=name)}") from error
    versions = [str(version.version) for version in model.versions]
    if alias is not None and alias not in model.aliases:
        raise RegistryError(f"model {name!r} has no alias {alias!r}; {_known('aliases', model.aliases, wanted=alias)}")
    if number == "latest":
        number = next(reversed(versions), number)
    if number is not None and number not in versions:
        raise RegistryError(f"model {name!r} has no version {number}; {_known('versions', versions, wanted='')}")
    return client.get_model_version(name, number if alias is None else str(model.aliases[alias]))


def _known(kind: str, names: Iterable[str], *, wanted: str) -> str:
    names = list(names)
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}{kind} there: {', '.join(names[:20]) or 'none'}{', …' if len(names) > 20 else ''}"


def all_models(client: MlflowClient) -> list[entities.RegisteredModel]:
    """Every registered model of MLflow, by name."""
    found: list[entities.RegisteredModel] = []
    token = None
    while True:
        page = client.search_registered_models(order_by=["name ASC"], page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _registered(client: MlflowClient, found: entities.RegisteredModel) -> RegisteredModel:
    versions = tuple(map(_version, versions_of(client, found.name)))
    return RegisteredModel(found.name, versions, aliases_of(found))


def aliases_of(found: entities.RegisteredModel) -> dict[str, int]:
    """The version that each alias points at, by alias in rising order."""
    return {alias: int(version) for alias, version in sorted(found.aliases.items())}


def versions_of(client: MlflowClient, name: str) -> list[entities.ModelVersion]:
    """A model's versions in rising order, as MLflow has them."""
    versions: list[entities.ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(_named(name), page_token=token)
        versions += [version for version in page if version.name == name]
        token = page.token
        if not token:
            return sorted(versions, key=lambda version: int(version.version))


def _named(name: str) -> str | None:
    """MLflow's filter for a name. Its grammar can't escape quotes: none for a name with both kinds."""
    if "'" not in name:
        return f"name='{name}'"
    return None if '"' in name else f'name="{name}"'


def _version(found: entities.ModelVersion) -> ModelVersion:
    return ModelVersion(found.name, int(found.version), f"models:/{found.name}/{found.version}", found.source)
