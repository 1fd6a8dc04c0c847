"""Loads a component of a model folder as a frozen module, in a given dtype on a given device.

Invariants: only safetensors are read, no code in the folder runs, and a component with missing weights is refused.
(transformers and diffusers would fill them with random numbers and a warning.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from x2i_platform.config import Dtype
from x2i_platform.errors import WeightsError
from x2i_platform.models.dits import Architecture, architecture_named
from x2i_platform.models.entries import read_config
from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()  # before a class is imported from transformers or diffusers

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def pipeline_architecture(folder: Path) -> Architecture:
    """Read from a pipeline's `model_index.json` what kind of DiT it has. Raises WeightsError for an unknown one."""
    index = read_config(folder, file="model_index.json")
    part = index.get("transformer")
    found = part[-1] if isinstance(part, list) and part else None
    return architecture_named(found or index.get("_class_name"), where=folder)


def load_frozen(kind: Any, folder: Path, *, dtype: Dtype, device: str) -> Any:
    """Load a model of class `kind` (of transformers or diffusers) from `folder`, in eval mode, without gradients.

    Raises WeightsError if the folder is missing, damaged, of another class, or lacks a weight.
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


def load_head(kind: Any, folder: Path, *, below: Any) -> Any:
    """Build a model with a head on a loaded model `below` it. Only the head's weights are read.

    `kind` is one of transformers' Auto classes, or a class of a model. Raises WeightsError if the folder lacks weights.
    """
    build = getattr(kind, "from_config", None) or kind
    with torch.device("meta"):
        whole = build(below.config)
    # Share the loaded body: there is one copy of its weights.
    setattr(whole, whole.base_model_prefix, below)
    whole.tie_weights()  # a head that shares the embedding's weights has none to read
    with _reading(folder):
        for name, weight in list(whole.named_parameters()):
            if weight.is_meta:
                loaded = read_weight(folder, name).to(device=below.device, dtype=below.dtype)
                module, _, leaf = name.rpartition(".")
                setattr(whole.get_submodule(module), leaf, torch.nn.Parameter(loaded, requires_grad=False))
        if (folder / GENERATION_CONFIG_NAME).is_file():
            whole.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return whole.eval()


def read_weight(folder: Path, name: str) -> Tensor:
    """Read one weight of a model folder, from one safetensors file or several. Raises KeyError if it has none.

    Its name may have a prefix: InternVL's head is published as `language_model.lm_head.weight`.
    """
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        places = dict(json.loads(index.read_bytes())["weight_map"])
    else:
        with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as weights:
            places = dict.fromkeys(weights.keys(), SAFE_WEIGHTS_NAME)
    found = [key for key in places if key == name or key.endswith(f".{name}")]
    if len(found) != 1:
        raise KeyError(f"{len(found) or 'no'} weights are named {name!r}")
    with safe_open(folder / places[found[0]], framework="pt") as weights:
        weight: Tensor = weights.get_tensor(found[0])
        return weight


def load_part(kind: Any, folder: Path) -> Any:
    """Load a tokenizer or scheduler of class `kind`. Raises WeightsError if the folder is missing or damaged."""
    if not folder.is_dir():
        raise WeightsError(f"{folder} is missing: the model isn't whole, or isn't of this kind")
    with _reading(folder):
        return kind.from_pretrained(folder)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn failures into a WeightsError, and silence the libraries' progress bars and reports meanwhile.

    Of these reports only missing weights matter, and `load_frozen` raises for them. An LM head left out is intended.
    """
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
