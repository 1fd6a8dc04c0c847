"""What decoded media are, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Video:
    """Frames in order, and how many of them make a second."""

    frames: tuple[Image.Image, ...]
    fps: float = 1.0


@dataclass(frozen=True)
class Audio:
    """Sound of one channel: samples from -1 to 1, and how many of them make a second."""

    samples: NDArray[np.float32]
    sampling_rate: int = 16_000

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.sampling_rate
