"""Untrained models of the same architectures, for tests that need no trained model."""
