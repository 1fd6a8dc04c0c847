"""The folders of the miniature models: the trained ones ship with the package, the random ones are built once.

Invariants: the same code, captions and library versions build the same bytes in every process; a folder appears whole
or not at all, even if several processes build it at the same time; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from x2i_platform.cache import cache_folder
from x2i_platform.config import REFERENCE_TEMPLATE
from x2i_platform.errors import WeightsError
from x2i_platform.files import publish_folder, scratch_folder

TRAINED = ("flux", "qwen2.5-vl", "qwen2.5-omni", "alignnet")
"""Shipped in `weights/`: `mini.build` writes the first three, `benchmarks/ship_alignnet.py` the fourth."""
MANIFEST = "manifest.json"
RANDOM = (
    "random-flux",
    "random-qwen2.5-vl",
    "random-qwen2.5-omni",
    "random-qwen3-vl",
    "random-internvl",
    "random-minicpm-v",
    "random-minicpm-o",
    "random-sd3",
)
"""`mini.random.builders` builds them."""
RANDOM_CAPTIONS = Path(__file__).parent / "random" / "captions.txt"
"""Captions for the random models' tokenizers. They never change, unlike the trained models' captions."""
LIBRARIES = ("diffusers", "safetensors", "tokenizers", "torch", "transformers")


def folder_of(name: str) -> Path:
    """Return the folder of miniature `name`, without `mini:`. A random one is built in seconds on first use.

    A random one is in `$X2I_CACHE` or `~/.cache/x2i-platform`, under a digest of everything that determines its
    content. Raises WeightsError for an unknown name or a cache folder that can't be written.
    """
    if name in TRAINED:
        return trained_folder() / name
    if name not in RANDOM:
        known = ", ".join(f"mini:{each}" for each in (*TRAINED, *RANDOM))
        raise WeightsError(f"no miniature model 'mini:{name}'; there are {known}")
    folder = cache_folder() / "mini" / _digest() / name
    if folder.is_dir():
        return folder
    try:
        with scratch_folder(folder) as scratch:
            _write(name, folder=scratch)
            publish_folder(scratch, folder)
    except OSError as error:
        raise WeightsError(f"can't build mini:{name} in {folder.parent}: {error}; set X2I_CACHE elsewhere") from error
    return folder


def trained_folder() -> Path:
    """Return the package's folder of trained miniatures and their manifest."""
    return Path(__file__).with_name("weights")


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every weights file below a folder, by relative path."""
    weights = sorted(folder.rglob("*.safetensors"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}


def _write(name: str, *, folder: Path) -> None:
    from x2i_platform.torchvision_schemas import define_missing_schemas

    define_missing_schemas()
    captions = RANDOM_CAPTIONS.read_text("utf-8").splitlines()
    with _no_progress_bars():
        from x2i_platform.mini.random.builders import BUILDERS

        BUILDERS[name](folder, captions=captions)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide the progress bars of saving: the files are only about a megabyte each."""
    from transformers.utils import logging as transformers_logging

    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _digest() -> str:
    """Hash the builders, the captions, the chat template, the prompt template, and the libraries' versions."""
    total = hashlib.sha256(REFERENCE_TEMPLATE.encode())
    for library in LIBRARIES:
        total.update(f"{library} {version(library)}\n".encode())
    here = Path(__file__).parent
    sources = [here / name for name in ("chat_template.jinja", "processors.py", "vocabularies.py")]
    for path in (RANDOM_CAPTIONS, *sources, *sorted((here / "random").glob("*.py"))):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]
