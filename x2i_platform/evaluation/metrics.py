"""How near one image is to another, pixel by pixel: PSNR and SSIM of two PIL images of the same size.

Invariants: both see 8-bit RGB, whatever the mode; both are symmetric; both are finite, so that they can be written as
JSON and averaged.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import mean_squared_error, structural_similarity

PSNR_CAP_DB = 100.0
"""Identical images have an infinite PSNR; they count as this much, and so does whatever comes closer than it."""
SSIM_WINDOW = 11
"""Side of the Gaussian window in pixels, at a standard deviation of 1.5, as Wang et al. have it."""
PEAK = 255


def psnr(left: Image.Image, right: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB, `10 log10(255² / MSE)` over all pixels and channels, at most 100.

    Raises ValueError where the sizes differ.
    """
    error = float(mean_squared_error(*_pixels(left, right)))
    return PSNR_CAP_DB if error == 0 else min(PSNR_CAP_DB, float(10 * np.log10(PEAK**2 / error)))


def ssim(left: Image.Image, right: Image.Image) -> float:
    """Mean structural similarity, from -1 to 1: the mean over the channels of RGB.

    Settings are those of Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", 2004: a Gaussian window, population covariances, K1 = 0.01, K2 = 0.03. Raises ValueError
    where the sizes differ or a side is shorter than the window.
    """
    pair = _pixels(left, right)
    if min(left.size) < SSIM_WINDOW:
        raise ValueError(f"image of {left.width} x {left.height} pixels; SSIM needs {SSIM_WINDOW} on each side")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(
        structural_similarity(*pair, channel_axis=2, data_range=PEAK, **options)  # type: ignore[no-untyped-call]
    )


def _pixels(left: Image.Image, right: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if left.size != right.size:
        raise ValueError(f"images of {left.size} and {right.size} pixels; only equal sizes can be compared")
    return np.asarray(left.convert("RGB")), np.asarray(right.convert("RGB"))
