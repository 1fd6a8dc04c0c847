"""Writes the settings by which a miniature MLLM splits images and videos into patches, for `AutoProcessor`.

Invariant: the settings are plain data, so the folder is the same wherever it is built. Only loading `AutoProcessor`
needs torchvision.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_processors(folder: Path, *, patch: int, merge: int, side_limit: int) -> None:
    """Write the processors' settings. Images and frames with more than `side_limit` squared pixels are scaled down."""
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
    settings = {
        "processor_class": "Qwen2_5_VLProcessor",
        "image_processor": {**pixels, "image_processor_type": "Qwen2VLImageProcessor"},
        "video_processor": {**pixels, **video, "video_processor_type": "Qwen2VLVideoProcessor"},
    }
    text = json.dumps(settings, indent=2, sort_keys=True)
    (folder / "processor_config.json").write_text(text + "\n", encoding="utf-8")
