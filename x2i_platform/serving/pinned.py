"""The model of a service, decided once: a replica that starts later loads exactly this model, or doesn't start.

Aliases move, folders are overwritten, and the hub's default branch changes; a running service must not follow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2i_platform import fingerprint
from x2i_platform.config import Recipe
from x2i_platform.digests import differences, digest
from x2i_platform.errors import WeightsError
from x2i_platform.models.model_folder import read_recipe
from x2i_platform.models.weights import identity
from x2i_platform.registry import models
from x2i_platform.registry.evaluations import pin


@dataclass(frozen=True)
class Pinned:
    """One model, independent of what its name will mean later."""

    name: str
    """The name as given; for a folder only its last part, because paths are private."""
    source: str
    """`models:/NAME/VERSION`, or a folder."""
    content: str
    """Identity of the model folder, including its recipe."""
    base: dict[str, Any] | None
    """Fingerprint of everything else that makes an image; None if the deploying machine can't see the DiT and the
    MLLM."""

    @property
    def version(self) -> str:
        """The version that clients are told."""
        return self.source if self.source.startswith(("models:", "runs:", "mini:")) else self.name

    @property
    def digest(self) -> str:
        """Distinguishes models with the same name."""
        return digest([self.content, self.base])[:16]

    @property
    def facts(self) -> dict[str, str]:
        """Facts for answers and images."""
        return {"model": self.name, "version": self.version, "digest": self.digest}

    @property
    def names(self) -> tuple[str, ...]:
        """Names by which clients may ask for it: as given, as it is registered, and its version."""
        registered = re.fullmatch(r"models:/([^/@]+)[/@].+", self.version)
        return tuple(dict.fromkeys((self.name, *(registered.groups() if registered else ()), self.version)))

    @property
    def follows(self) -> bool:
        """Whether what its name means can change while the service runs."""
        return self.name.startswith("models:") and self.name != self.source


def pin_model(model: str, *, tracking_uri: str) -> tuple[Pinned, Recipe]:
    """A model as it is now, and its recipe. Raises RegistryError or WeightsError if there is none."""
    source = pin(model, tracking_uri=tracking_uri)
    folder = models.resolve(source, tracking_uri=tracking_uri)
    recipe = read_recipe(folder)
    name = model if model.startswith(("models:", "runs:")) else Path(model).name
    try:
        base = fingerprint.generation(recipe)
    except WeightsError:
        base = None
    return Pinned(name, source, content=identity(str(folder)), base=base), recipe


def require_same_base(pinned: Pinned, recipe: Recipe, *, base: Recipe) -> None:
    """Raise WeightsError if a model needs other weights or settings of the MLLM and the DiT than those of `base`.

    One service loads one of each; AlignNets over them may differ.
    """
    ours, theirs = fingerprint.loaded_models(recipe), fingerprint.loaded_models(base)
    if found := differences(ours, theirs, where="in the service"):
        raise WeightsError(f"model '{pinned.name}' can't share this service's MLLM and DiT: {found[0]}; serve it apart")


def fetch(pinned: Pinned, *, tracking_uri: str) -> Path:
    """The folder of a pinned model. Raises WeightsError if its files, its DiT or its MLLM have changed."""
    folder = models.resolve(pinned.source, tracking_uri=tracking_uri)
    changed = "files" if identity(str(folder)) != pinned.content else None
    if pinned.base and not changed and fingerprint.generation(read_recipe(folder)) != pinned.base:
        changed = "DiT or MLLM"
    if changed:
        raise WeightsError(f"the {changed} of model '{pinned.name}' changed after it was deployed; deploy it again")
    return folder
