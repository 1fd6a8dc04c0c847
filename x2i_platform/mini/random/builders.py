"""The builders of the random models, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from x2i_platform.mini.random import flux, internvl, minicpm_o, minicpm_v, qwen, qwen3_vl, qwen_omni, sd3


class Builder(Protocol):
    """Builds a model and saves it in a folder."""

    def __call__(self, folder: Path, *, captions: Sequence[str]) -> None: ...


BUILDERS: Mapping[str, Builder] = {
    "random-flux": flux.write,
    "random-qwen2.5-vl": qwen.write,
    "random-qwen2.5-omni": qwen_omni.write,
    "random-qwen3-vl": qwen3_vl.write,
    "random-internvl": internvl.write,
    "random-minicpm-v": minicpm_v.write,
    "random-minicpm-o": minicpm_o.write,
    "random-sd3": sd3.write,
}
