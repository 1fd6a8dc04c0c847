"""Small stores for the tests of this folder."""

from tests.features.conftest import fingerprint, store

__all__ = ["fingerprint", "store"]
