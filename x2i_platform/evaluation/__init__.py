"""Evaluation of a model: figures and pictures for people to judge by."""
