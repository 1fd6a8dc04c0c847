"""The miniature world: captions, and models of the real architectures, small enough for two CPU cores without a
network.

Invariant: importing the package reads no file and loads no library. `mini.checkpoints` builds the random models on
first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def captions_path() -> Path:
    """Return the path of the shipped captions: UTF-8 text, one distinct English caption per line."""
    return Path(__file__).with_name("captions.txt")


def chat_template_path(name: Literal["vl", "omni"] = "vl") -> Path:
    """Return the path of a miniature MLLM's Jinja chat template; only `omni` takes sound."""
    return Path(__file__).with_name({"vl": "chat_template.jinja", "omni": "omni_chat_template.jinja"}[name])
