from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from x2i_platform.models.minicpm_o.image_processing import MiniCPMVImageProcessor

CUTTER = MiniCPMVImageProcessor(scale_resolution=56)


def noise(width: int, height: int, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_patches_are_those_of_unfold() -> None:
    """The released processor unfolds channel by channel; the convolution's kernel lies in the same order."""
    image = noise(56, 56)
    patches_RK, sizes = CUTTER.patches([image])
    assert sizes.tolist() == [[4, 4]]
    pixels = (torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1) - 0.5) / 0.5
    unfolded = F.unfold(pixels[None], kernel_size=14, stride=14)[0].T
    torch.testing.assert_close(patches_RK, unfolded, rtol=0, atol=1e-6)


def test_slices_follow_their_overview_row_by_row() -> None:
    image = noise(112, 168)  # 6 squares: 2 columns, 3 rows
    patches_RK, sizes = CUTTER.patches([image, noise(56, 56, seed=1)])
    # The overview: shape 2 / 3, height int(56 / 0.816) = 68, width 45; 3.2 and 4.9 patches.
    assert sizes.tolist() == [[5, 3], *[[4, 4]] * 6, [4, 4]]
    assert len(patches_RK) == 15 + 7 * 16
    slices = patches_RK[15 : 15 + 6 * 16].view(3, 2, 4, 4, 3, 14, 14).permute(4, 0, 2, 5, 1, 3, 6)
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)
    torch.testing.assert_close(slices.reshape(3, 168, 112), (pixels - 0.5) / 0.5, rtol=0, atol=1e-6)


def test_a_call_may_cut_less() -> None:
    assert len(CUTTER.patches([noise(112, 168)], max_slice_nums=1)[1]) == 1
    assert len(CUTTER.patches([noise(112, 168)], max_slice_nums=4)[1]) == 5
    with pytest.raises(ValueError, match="max_slice_nums is 0; at least 1 is needed"):
        CUTTER.patches([noise(20, 20)], max_slice_nums=0)


def test_pictures_of_other_modes_become_rgb() -> None:
    image = noise(56, 56)
    grey, _ = CUTTER.patches([image.convert("L")])
    expected, _ = CUTTER.patches([image.convert("L").convert("RGB")])
    assert torch.equal(grey, expected)


def test_its_settings_are_saved(tmp_path: Path) -> None:
    MiniCPMVImageProcessor(scale_resolution=70, max_slice_nums=3, norm_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    again = MiniCPMVImageProcessor.from_pretrained(tmp_path)
    assert (again.scale_resolution, again.max_slice_nums, again.norm_mean) == (70, 3, [0.1, 0.2, 0.3])
