"""Untrained models of the same architectures, for tests that don't depend on what a model has learned."""
