"""The flows: which stages, in which order, on which resources."""

from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"
"""Folder of the recipes a user picks by name."""
