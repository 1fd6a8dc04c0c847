"""A component of a model folder becomes a frozen module, in the asked dtype, on the asked device.

Invariants: only safetensors are read, no code in the folder runs, and a component whose weights are incomplete is
refused; transformers and diffusers would fill the gaps with random numbers and a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from x2i_platform.config import Dtype
from x2i_platform.errors import WeightsError
from x2i_platform.models.catalog import read_config
from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()  # so must this module be imported before a class is taken from transformers or diffusers

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_frozen(kind: Any, folder: Path, *, dtype: Dtype, device: str) -> Any:
    """An instance of `kind` (a transformers or diffusers model class) from `folder`, in eval mode, without gradients.

    Raises WeightsError where the folder is missing, of another class, damaged, or leaves a weight unset.
    """
    found = read_config(folder).get("_class_name", kind.__name__)
    if found != kind.__name__:
        raise WeightsError(f"{folder} holds a {found}; a {kind.__name__} is needed")
    with _reading(folder):
        module, report = kind.from_pretrained(
            folder, torch_dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True
        )
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(f"{folder} lacks {len(missing)} weights of a {kind.__name__}, such as {missing[0]!r}")
    return module.eval().requires_grad_(False).to(device)


def load_part(kind: Any, folder: Path) -> Any:
    """A tokenizer or scheduler of class `kind` from `folder`. Raises WeightsError where it is missing or damaged."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is missing: the model isn't whole, or isn't of this kind")
    with _reading(folder):
        return kind.from_pretrained(folder)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Failures become one WeightsError. The libraries' bars and reports are silent meanwhile: what matters in them,
    unset weights, is an error of ours, and an LM head left out on purpose is no news."""
    quiet = transformers.utils.logging, diffusers.utils.logging
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in quiet]
    for library in quiet:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{folder} can't be loaded: {reason}") from error
    finally:
        for library, (level, bars) in zip(quiet, before, strict=True):
            library.set_verbosity(level)
            if bars:
                library.enable_progress_bar()
