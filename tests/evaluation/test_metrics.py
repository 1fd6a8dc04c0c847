"""PSNR and SSIM: known values, symmetry, and the ends of their scales."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import correlate1d

from x2i_platform.evaluation.metrics import PSNR_CAP_DB, psnr, ssim


def noise(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_psnr_of_a_known_error() -> None:
    left, right = Image.new("RGB", (16, 16), (100, 100, 100)), Image.new("RGB", (16, 16), (110, 100, 100))
    # A third of the channels is off by 10: MSE is 100 / 3.
    assert psnr(left, right) == pytest.approx(20 * math.log10(255) - 10 * math.log10(100 / 3))
    assert psnr(Image.new("RGB", (16, 16), "black"), Image.new("RGB", (16, 16), "white")) == pytest.approx(0)


def test_identical_images_have_the_highest_finite_figures() -> None:
    assert psnr(noise(0), noise(0)) == PSNR_CAP_DB
    assert ssim(noise(0), noise(0)) == pytest.approx(1)
    json.dumps(psnr(noise(0), noise(0)), allow_nan=False)


def test_an_image_nearer_than_the_cap_is_not_above_it() -> None:
    left = Image.new("RGB", (512, 512), "black")
    right = left.copy()
    right.putpixel((0, 0), (1, 0, 0))
    assert psnr(left, right) == PSNR_CAP_DB


def reference_ssim(left: np.ndarray, right: np.ndarray) -> float:
    """SSIM of one channel, written out from Wang et al. 2004: an 11 x 11 Gaussian window, valid pixels only."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        blurred: np.ndarray = correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)
        return blurred[5:-5, 5:-5]

    mean_l, mean_r = blur(left), blur(right)
    var_l, var_r = blur(left * left) - mean_l**2, blur(right * right) - mean_r**2
    both = blur(left * right) - mean_l * mean_r
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    share = (2 * mean_l * mean_r + c1) * (2 * both + c2) / ((mean_l**2 + mean_r**2 + c1) * (var_l + var_r + c2))
    return float(share.mean())


def test_ssim_is_that_of_the_paper() -> None:
    left = noise(1)
    right = Image.blend(left, noise(2), 0.3)
    channels = [
        reference_ssim(np.asarray(left, float)[..., channel], np.asarray(right, float)[..., channel])
        for channel in range(3)
    ]
    assert ssim(left, right) == pytest.approx(np.mean(channels), abs=1e-6)
    assert 0.2 < ssim(left, right) < 0.98


def test_both_are_symmetric_and_see_rgb() -> None:
    left, right = noise(3), noise(4)
    assert psnr(left, right) == psnr(right, left)
    assert ssim(left, right) == pytest.approx(ssim(right, left))
    assert psnr(left.convert("RGBA"), left) == PSNR_CAP_DB
    assert ssim(left.convert("L"), left.convert("L").convert("RGB")) == pytest.approx(1)


def test_what_cannot_be_compared_is_refused() -> None:
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="equal sizes"):
            metric(noise(0), noise(0, (32, 48)))
    with pytest.raises(ValueError, match="10 x 32 pixels; SSIM needs 11"):
        ssim(noise(0, (10, 32)), noise(0, (10, 32)))
