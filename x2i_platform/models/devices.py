"""Chooses the device of a model."""

from __future__ import annotations

import torch

from x2i_platform.errors import ClusterError, StoreError, WeightsError

NOT_A_ROWS_FAULT = (WeightsError, StoreError, torch.AcceleratorError, OSError)
"""Errors that the next row would meet too: a model, a disk or a device is broken, and work must stop."""


def choose_device(num_gpus: float) -> str:
    """The GPU that was asked for, or the CPU. Raises ClusterError if PyTorch sees no GPU where one was asked for."""
    if num_gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise ClusterError(f"num_gpus = {num_gpus:g}, but PyTorch sees no GPU here; set it to 0 to run on the CPU")
    return "cuda"
