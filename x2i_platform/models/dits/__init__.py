"""The kinds of DiT that can be a teacher: one table, and one file for each kind. Imports no torch.

The key is the class of the transformer, which `model_index.json` and the transformer's own `config.json` both name. The
pipeline's class isn't the key, because fine-tunes of one DiT come with pipelines of several names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from x2i_platform.errors import WeightsError
from x2i_platform.models.dits.flux import Flux
from x2i_platform.models.dits.interface import Architecture
from x2i_platform.models.dits.sd3 import SD3

__all__ = ["Architecture"]

ARCHITECTURES: Mapping[str, Architecture] = {each.transformer: each for each in (Flux(), SD3())}


def architecture_named(transformer: str | None, *, where: object) -> Architecture:
    """Return the kind of DiT with a transformer of this class. `where` is named in the error.

    Raises WeightsError for any other class, and for None.
    """
    kind = ARCHITECTURES.get(transformer or "")
    if kind is None:
        found = transformer or "model of no class"
        raise WeightsError(f"{where} holds a {found}; a teacher's DiT is one of {', '.join(ARCHITECTURES)}")
    return kind


def architecture_of(dit: Any) -> Architecture:
    """Return the kind of a loaded DiT. Raises WeightsError like `architecture_named`."""
    return architecture_named(type(dit).__name__, where="the pipeline")
