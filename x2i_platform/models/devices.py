"""Choice of the device that a model runs on."""

from __future__ import annotations

import torch

from x2i_platform.errors import ClusterError, StoreError, WeightsError

NOT_A_ROWS_FAULT = (WeightsError, StoreError, torch.AcceleratorError, OSError)
"""Errors of a broken model, disk or device. The next row would fail too, so the work must stop."""


def choose_device(num_gpus: float) -> str:
    """Return `cuda` if GPUs are asked for, else `cpu`. Raises ClusterError if PyTorch sees no GPU."""
    if num_gpus == 0:
        return "cpu"
    if not torch.cuda.is_available():
        raise ClusterError(f"num_gpus = {num_gpus:g}, but PyTorch sees no GPU here; set it to 0 to run on the CPU")
    return "cuda"
