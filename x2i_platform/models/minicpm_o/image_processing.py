"""Pictures in, normalised patches out: of every overview and slice, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor

from x2i_platform.models.minicpm_o.slicing import Size, Slicing


class MiniCPMVImageProcessor(BaseImageProcessor):
    """Cuts pictures into an overview and slices, and these into patches. Name and settings are the released ones."""

    model_input_names = ["pixel_values", "target_sizes"]  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        """Take the settings of `preprocessor_config.json`; the defaults are the released ones."""
        super().__init__(**settings)
        self.max_slice_nums: int = settings.get("max_slice_nums", 9)
        self.scale_resolution: int = settings.get("scale_resolution", 448)
        self.patch_size: int = settings.get("patch_size", 14)
        self.image_feature_size: int = settings.get("image_feature_size", 64)
        self.use_image_id: bool = settings.get("use_image_id", True)
        self.norm_mean: list[float] = settings.get("norm_mean", [0.5, 0.5, 0.5])
        self.norm_std: list[float] = settings.get("norm_std", [0.5, 0.5, 0.5])

    def slicing(self, max_slice_nums: int | None = None) -> Slicing:
        """Return how pictures are cut. Raises ValueError for less than one slice."""
        at_most = self.max_slice_nums if max_slice_nums is None else max_slice_nums
        if at_most < 1:
            raise ValueError(f"max_slice_nums is {at_most}; at least 1 is needed")
        return Slicing(max_slices=at_most, resolution=self.scale_resolution, patch=self.patch_size)

    def patches(self, images: list[Image.Image], *, max_slice_nums: int | None = None) -> tuple[Tensor, Tensor]:
        """Return patches `(patches, channels * side ** 2)`, and `(slices, 2)`: the patches of each down and across."""
        cut = [piece for image in images for piece in _cut(image.convert("RGB"), self.slicing(max_slice_nums))]
        sizes = torch.tensor([[piece.height // self.patch_size, piece.width // self.patch_size] for piece in cut])
        return torch.cat([self._patches(piece) for piece in cut]), sizes

    def _patches(self, piece: Image.Image) -> Tensor:
        pixels_HWc = np.asarray(piece, dtype=np.float32) / 255
        mean, std = (np.asarray(each, dtype=np.float32) for each in (self.norm_mean, self.norm_std))
        normal_HWc = (pixels_HWc - mean) / std
        side = self.patch_size
        rows, columns, channels = piece.height // side, piece.width // side, normal_HWc.shape[2]
        grid = torch.from_numpy(normal_HWc).view(rows, side, columns, side, channels)
        return grid.permute(0, 2, 4, 1, 3).reshape(rows * columns, -1)


def _cut(image: Image.Image, slicing: Slicing) -> list[Image.Image]:
    """Return the overview, then the slices row by row."""
    overview = _resized(image, slicing.overview(image.size))
    grid = slicing.grid(image.size)
    if grid is None:
        return [overview]
    sheet = _resized(image, slicing.sheet(image.size, grid))
    width, height = sheet.width // grid[0], sheet.height // grid[1]
    corners = [(width * column, height * row) for row in range(grid[1]) for column in range(grid[0])]
    return [overview, *(sheet.crop((left, top, left + width, top + height)) for left, top in corners)]


def _resized(image: Image.Image, size: Size) -> Image.Image:
    return image.resize(size, resample=Image.Resampling.BICUBIC)
