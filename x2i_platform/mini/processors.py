"""Writes the settings by which a miniature MLLM splits images and videos into patches, for `AutoProcessor`.

Invariant: the settings are plain data, so the folder is the same wherever it is built. Only loading `AutoProcessor`
needs torchvision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Settings = dict[str, Any]


def write_processors(folder: Path, *, patch: int, merge: int, side_limit: int) -> None:
    """Write the settings of Qwen2.5-VL's processors."""
    image, video = qwen_settings(patch=patch, merge=merge, side_limit=side_limit)
    write_settings(folder, processor_class="Qwen2_5_VLProcessor", image_processor=image, video_processor=video)


def qwen_settings(*, patch: int, merge: int, side_limit: int) -> tuple[Settings, Settings]:
    """Return settings of the image and the video processor of Qwen's families.

    Images and frames with more than `side_limit` squared pixels are scaled down.
    """
    pixels = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "merge_size": merge,
        "patch_size": patch,
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": (patch * merge) ** 2, "longest_edge": side_limit**2},
        "temporal_patch_size": 2,
    }
    video = {
        "cap_pixels_per_frame": True,
        "do_sample_frames": False,
        "min_frames": 2,
        "max_frames": 64,
        "return_metadata": False,
    }
    return (
        {**pixels, "image_processor_type": "Qwen2VLImageProcessor"},
        {**pixels, **video, "video_processor_type": "Qwen2VLVideoProcessor"},
    )


def write_settings(folder: Path, *, processor_class: str, **settings: Any) -> None:
    """Write `processor_config.json` with the settings of each part of a processor."""
    text = json.dumps({"processor_class": processor_class, **settings}, indent=2, sort_keys=True)
    (folder / "processor_config.json").write_text(text + "\n", encoding="utf-8")
