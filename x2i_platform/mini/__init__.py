"""The miniature world: captions, and models of the real architectures, small enough for two CPU cores without a
network.

Invariant: importing the package reads no file and loads no library. `mini.checkpoints` builds the random models on
first use.
"""

from __future__ import annotations

from pathlib import Path


def captions_path() -> Path:
    """Return the path of the shipped captions: UTF-8 text, one distinct English caption per line."""
    return Path(__file__).with_name("captions.txt")


def chat_template_path() -> Path:
    """Return the path of the miniature MLLM's Jinja chat template."""
    return Path(__file__).with_name("chat_template.jinja")
