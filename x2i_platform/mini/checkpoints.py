"""Builds the miniature models, once, into a cache folder from which they load like any downloaded checkpoint.

Invariants: the same code, captions and library versions write the same bytes in every process; a folder appears whole
or not at all, whoever else builds at the same time; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from x2i_platform.config import REFERENCE_TEMPLATE
from x2i_platform.errors import WeightsError
from x2i_platform.mini import captions_path

NAMES = ("flux", "qwen2.5-vl")
LIBRARIES = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")


def build(name: str) -> Path:
    """The folder of miniature `name` (`flux` or `qwen2.5-vl`), built in seconds on first use.

    It lies in `$X2I_CACHE` or `~/.cache/x2i-platform`, under a digest of all that decides its content. Raises
    WeightsError for an unknown name or a cache folder that can't be written.
    """
    if name not in NAMES:
        raise WeightsError(f"no miniature model {name!r}; there are {', '.join(f'mini:{known}' for known in NAMES)}")
    folder = cache_folder() / "mini" / _digest() / name
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _build_aside(name, folder=folder)
    except OSError as error:
        raise WeightsError(f"can't build mini:{name} in {folder.parent}: {error}; set X2I_CACHE elsewhere") from error
    return folder


def cache_folder() -> Path:
    """Where this package keeps what it can rebuild: `$X2I_CACHE`, else `~/.cache/x2i-platform`."""
    return Path(os.environ.get("X2I_CACHE") or "~/.cache/x2i-platform").expanduser().absolute()


def _build_aside(name: str, *, folder: Path) -> None:
    """Write under a temporary name beside `folder`, then rename; when another process was faster, keep its folder."""
    aside = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _write(name, folder=aside)
        aside.chmod(0o755)  # mkdtemp gives 0o700, which would lock other users out of a shared cache
        try:
            aside.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(name: str, *, folder: Path) -> None:
    from x2i_platform.models.torchvision_schemas import define_missing_schemas

    define_missing_schemas()
    captions = captions_path().read_text("utf-8").splitlines()
    with _no_progress_bars():
        if name == "flux":
            from x2i_platform.mini import flux

            flux.write(folder, captions=captions)
        else:
            from x2i_platform.mini import qwen

            qwen.write(folder, captions=captions)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Saving draws one bar a file, which says nothing at a megabyte each."""
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _digest() -> str:
    """Of this package's files (builders, captions, chat template), the prompt template, and the libraries' versions."""
    total = hashlib.sha256(REFERENCE_TEMPLATE.encode())
    for library in LIBRARIES:
        total.update(f"{library} {version(library)}\n".encode())
    sources = [path for path in Path(__file__).parent.iterdir() if path.suffix in {".py", ".txt", ".jinja"}]
    for path in sorted(sources):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
