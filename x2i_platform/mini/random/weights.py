"""Seeded random weights that keep activations near unit scale, so an untrained miniature still distinguishes inputs."""

from __future__ import annotations

import torch
from torch import nn


def fill(model: nn.Module, *, seed: int) -> None:
    """Overwrite every parameter in place, in the order of `model.modules()`, from one CPU generator.

    Matrices and kernels have variance 1 / fan-in, embeddings unit variance, normalisation scales a mean of 1 and biases
    a mean of 0. The libraries' own standard deviation of 0.02 is too small at these widths: the effect of captions
    vanishes.
    """
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) not in seen:  # T5 shares its embedding between two modules
                    seen.add(id(parameter))
                    mean, std = _moments(module, name=name, parameter=parameter)
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)


def _moments(module: nn.Module, *, name: str, parameter: nn.Parameter) -> tuple[float, float]:
    """Return mean and standard deviation of a parameter."""
    if parameter.ndim == 1:
        return (0.0, 0.05) if name.endswith("bias") else (1.0, 0.1)
    if isinstance(module, nn.Embedding):
        return 0.0, 1.0
    return 0.0, parameter[0].numel() ** -0.5
