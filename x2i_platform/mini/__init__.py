"""The miniature world: captions, and models of the true architectures small enough for two CPU cores and no network.

Invariant: importing the package reads no file and loads no library; `mini.checkpoints` builds the models on first use.
"""

from __future__ import annotations

from pathlib import Path


def captions_path() -> Path:
    """The shipped captions: UTF-8 text, one English caption a line, none twice."""
    return Path(__file__).with_name("captions.txt")


def chat_template_path() -> Path:
    """The Jinja chat template of the miniature MLLM."""
    return Path(__file__).with_name("chat_template.jinja")
