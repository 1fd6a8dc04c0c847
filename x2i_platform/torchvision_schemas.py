"""Lets torchvision's Python half import on a CPU build of torch.

torchvision's wheels of PyPI link against CUDA libraries. Beside a CPU torch their compiled half can't load, the import
ends with `operator torchvision::nms does not exist`, and transformers and diffusers, which look for torchvision, lose
every class that touches images. Resizing and normalising need none of the compiled operators.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch

SCHEMAS = tuple(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms"))


@cache  # and the definitions live as long as the returned handle
def define_missing_schemas() -> torch.library.Library | None:
    """Declare the operators that `import torchvision` demands, without kernels, where they can't be loaded.

    Call it before the first class is taken from transformers or diffusers. Does nothing where torch has CUDA, where
    torchvision isn't installed, or where its operators load. Returns the handle that holds the declarations, if any.
    """
    spec = importlib.util.find_spec("torchvision")
    if torch.version.cuda is not None or spec is None or spec.origin is None:
        return None
    if any(_loads(library) for library in Path(spec.origin).parent.glob("_C.*")):
        return None
    fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        fragment.define(schema)  # type: ignore[no-untyped-call]
    return fragment


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
