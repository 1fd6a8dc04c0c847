"""The recipe of the untrained miniature models: quick, and enough for all that doesn't depend on what was learned."""

from __future__ import annotations

from pathlib import Path

from x2i_platform.mini.checkpoints import RANDOM_CAPTIONS

RANDOM = str(Path(__file__).with_name("recipes") / "random.yaml")
CAPTIONS = RANDOM_CAPTIONS.read_text("utf-8").splitlines()
"""In the words that their tokenizers know."""
THREE_CAPTIONS = ["a red circle left of a blue square", "two small green triangles", "a photo"]
"""Of three lengths."""
