"""What a model is on disk: a folder of plain files, its digest, and a private copy of it.

Invariants: nothing is pickled, and a file that could be is refused; a fetched folder is a copy, never the store's own,
and stands for one stored folder alone: models of the same weights may have different recipes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import mlflow.artifacts

from x2i_platform.cache import cache_folder
from x2i_platform.digests import digest
from x2i_platform.errors import RegistryError
from x2i_platform.files import publish_folder, scratch_folder
from x2i_platform.models.model_folder import CONFIG_FILE, RECIPE_FILE, WEIGHTS_FILE

PLAIN_SUFFIXES = {".safetensors", ".json", ".md", ".txt"}


def content_digest(folder: Path) -> str:
    """SHA-256 over the weights and the config: what decides the numbers a model computes."""
    whole = hashlib.sha256()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        with (folder / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def settings_digest(folder: Path) -> str:
    """SHA-256 over what of the recipe says how a model draws and on what; nothing of how it was trained."""
    try:
        recipe = json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8"))
        drawn = {name: recipe.get(name) for name in ("teacher", "mllm", "alignnet", "generate")}
        return digest({**drawn, "run": recipe.get("run", {}).get("generate")})
    except FileNotFoundError:
        return ""
    except (ValueError, AttributeError) as error:
        raise RegistryError(f"{folder / RECIPE_FILE} is no recipe: {error}") from error


def fetch(source: str, *, label: str, content: str | None, tracking_uri: str) -> Path:
    """Copy an artifact folder into the cache, or find it there. Without its `content` it is copied each time."""
    cache = cache_folder() / "registry"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Hashed, as both come from the server and only a plain name may become a path.
    kept = None if content is None else cache / hashlib.sha256(f"{source}\n{content}".encode()).hexdigest()
    if kept is not None and kept.is_dir():
        return kept
    with scratch_folder(cache / "download") as scratch:
        folder = Path(
            mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(scratch), tracking_uri=tracking_uri)
        )
        require_model(folder, label=label)
        found = content_digest(folder)
        if content not in (None, found):
            raise RegistryError(f"model {label}: its stored files are not those registered (sha256 {found[:12]}…)")
        kept = kept or cache / _files_digest(folder)
        if not kept.is_dir():
            publish_folder(folder, kept)
    return kept


def _files_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            whole.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def require_model(folder: Path, *, label: str) -> None:
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if not (folder / name).is_file()]
    if missing:
        raise RegistryError(f"model {label} has no {' and no '.join(missing)}; it is not a saved AlignNet")


def require_plain(folder: Path) -> None:
    require_model(folder, label=str(folder))
    odd = sorted(entry.name for entry in folder.iterdir() if not entry.is_file() or entry.suffix not in PLAIN_SUFFIXES)
    if odd:
        raise RegistryError(
            f"{folder / odd[0]} can't be registered: only {', '.join(sorted(PLAIN_SUFFIXES))} files are"
        )
