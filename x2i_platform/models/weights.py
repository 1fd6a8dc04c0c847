"""Finds the folder of a model's weights, and the identity of those weights.

Invariants: a model is a local folder, a `mini:` name or a Hugging Face hub id, tried in that order, and the local cache
is tried before the network; only files with the endings in `LOADED` are downloaded or count, so no pickle and no code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from x2i_platform.errors import WeightsError
from x2i_platform.models.content import LOADED, content_digest

MINI_PREFIX = "mini:"
HUB_ID = re.compile(r"\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?", re.ASCII)
HUB_TIMEOUT_S = 10


def locate(model: str, *, revision: str | None = None) -> Path:
    """Return the folder of `model`: a local folder, a miniature, or a snapshot from the hub.

    A complete snapshot in the Hugging Face cache is used without asking the hub. `revision` (branch, tag or commit)
    applies to hub ids only. Raises WeightsError that says what was looked for and where.
    """
    folder = _local_folder(model)
    if folder is None:
        return _cached_snapshot(model, revision=revision) or _download(model, revision=revision)
    missing = missing_files(folder)
    if missing:
        raise WeightsError(f"model folder {folder} is incomplete: no {_listed(missing)} in it")
    return folder


def identity(model: str, *, revision: str | None = None) -> str:
    """Return the model's part of a fingerprint: a text that changes with the weights, not with their place.

    It is `id@commit` for hub ids, and for folders and miniatures `sha256:` over names, sizes and contents. A file's
    hash is reused until the file changes. Raises WeightsError.
    """
    if _local_folder(model) is not None:
        try:
            return f"sha256:{content_digest(locate(model))}"
        except OSError as error:
            raise WeightsError(f"can't read model {model!r}: {error}") from error
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision):
        return f"{model}@{revision}"
    snapshot = _cached_snapshot(model, revision=revision)
    return f"{model}@{snapshot.name if snapshot else _ask_hub(model, revision=revision)[0]}"


def missing_files(folder: Path) -> list[str]:
    """Return the missing files of a diffusers or transformers folder: shards, a pipeline's parts, or all weights."""
    pipeline = folder / "model_index.json"
    if not pipeline.is_file():
        return _missing_weights(folder) if (folder / "config.json").is_file() else ["config.json or model_index.json"]
    parts = [name for name, kind in _read_json(pipeline).items() if isinstance(kind, list) and kind[0]]
    absent = [f"{part}/" for part in parts if not (folder / part).is_dir()]
    models = [part for part in parts if (folder / part / "config.json").is_file()]
    return absent + [f"{part}/{name}" for part in models for name in _missing_weights(folder / part)]


def _missing_weights(folder: Path) -> list[str]:
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    if not indexes:
        return [] if any(path.is_file() for path in folder.glob("*.safetensors")) else ["*.safetensors"]
    shards = {shard for index in indexes for shard in _read_json(index).get("weight_map", {}).values()}
    return sorted(shard for shard in shards or {"*.safetensors"} if not (folder / shard).is_file())


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} can't be read: it holds no JSON object")
    return content


def _local_folder(model: str) -> Path | None:
    """Return the folder of a path or miniature, or None for a hub id. Raises WeightsError for a path to nothing."""
    if model.startswith(MINI_PREFIX):
        from x2i_platform.mini import checkpoints

        return checkpoints.folder_of(model.removeprefix(MINI_PREFIX))
    path = Path(model).expanduser() if model.startswith("~/") else Path(model)
    try:
        is_folder, is_file = bool(model.strip()) and path.is_dir(), path.is_file()
    except OSError as error:
        raise WeightsError(f"can't look for model {model!r} at {path.absolute()}: {error}") from error
    if is_folder:
        return path.absolute()
    if is_file:
        raise WeightsError(f"model {model!r} is a file; give the folder that holds config.json or model_index.json")
    # The hub's own rules for names: `name` or `owner/name`, of letters, digits and `-_.`.
    if HUB_ID.fullmatch(model) and "--" not in model and ".." not in model:
        return None
    raise WeightsError(f"no model {model!r}: there is no folder {path.absolute()}, and it is no hub id (owner/name)")


def _cached_snapshot(model: str, *, revision: str | None) -> Path | None:
    """Return the snapshot folder of `revision` in the Hugging Face cache if it is complete."""
    for name in ("model_index.json", "config.json"):
        file = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(file, str):
            snapshot = Path(file).parent
            return None if missing_files(snapshot) else snapshot
    return None


def _download(model: str, *, revision: str | None) -> Path:
    _, names = _ask_hub(model, revision=revision)
    try:
        folder = snapshot_download(model, revision=revision, allow_patterns=names, etag_timeout=HUB_TIMEOUT_S)
    except (OSError, httpx2.HTTPError) as error:
        raise _unobtainable(model, revision=revision, error=error) from error
    missing = missing_files(Path(folder))
    if missing:
        raise WeightsError(f"hub model {model!r} can't be loaded: it has no {_listed(missing)} (pickles aren't used)")
    return Path(folder)


def _ask_hub(model: str, *, revision: str | None) -> tuple[str, list[str]]:
    """Return the commit and the files to fetch. A separate call, because only it has a timeout for a silent hub."""
    try:
        info = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
    except (OSError, httpx2.HTTPError) as error:
        raise _unobtainable(model, revision=revision, error=error) from error
    names = [file.rfilename for file in info.siblings or [] if file.rfilename.endswith(LOADED)]
    if "model_index.json" in names:  # FLUX.1 repeats its weights in the root, in another format: 24 GB not needed
        names = [name for name in names if "/" in name or not name.endswith(".safetensors")]
    return str(info.sha), names


def _unobtainable(model: str, *, revision: str | None, error: Exception) -> WeightsError:
    if isinstance(error, OfflineModeIsEnabled):
        hub = "the hub may not be asked (HF_HUB_OFFLINE is set)"
    elif isinstance(error, GatedRepoError):
        hub = f"the hub wants you to accept its licence at {constants.ENDPOINT}/{model} and to run `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        hub = f"the hub has no revision {revision!r} of it"
    elif isinstance(error, RepositoryNotFoundError):
        hub = "the hub has no such model (if it is private, run `hf auth login`)"
    else:
        reason = " ".join(str(error).split())
        hub = f"the hub at {constants.ENDPOINT} gave {type(error).__name__}: {reason}"
    at = f" at revision {revision}" if revision else ""
    places = f"no folder {Path(model).absolute()}, not complete in the cache {constants.HF_HUB_CACHE}"
    return WeightsError(f"can't get model {model!r}{at}: {places}, and {hub}")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
