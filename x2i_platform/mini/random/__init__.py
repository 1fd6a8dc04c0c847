"""Untrained models of the same architectures: for tests of what doesn't depend on what a model has learned."""
