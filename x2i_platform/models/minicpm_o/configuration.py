"""Reads the released `config.json`: the sizes of Qwen2 at the top level, those of SigLIP and Whisper nested."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config, SiglipVisionConfig, WhisperConfig

VERSION = 2.6
"""MiniCPM-o 4.5 has the same `model_type`, but Qwen3 and other arithmetic."""


@strict
class MiniCPMOConfig(Qwen2Config):
    """Sizes and settings of MiniCPM-o 2.6. The defaults are the released values, except for the sizes of Qwen2."""

    model_type = "minicpmo"
    sub_configs_defaults = {"vision_config": SiglipVisionConfig, "audio_config": WhisperConfig}  # noqa: RUF012

    vision_config: Any = None
    """Sizes of SigLIP, as a dict or a config."""
    audio_config: Any = None
    """Sizes of Whisper, as a dict or a config."""
    version: float | str = VERSION
    query_num: int = 64
    """Tokens of an image or of a slice of one."""
    vision_batch_size: int = 16
    """Slices that go through the vision tower together."""
    drop_vision_last_layer: bool = False
    audio_pool_step: int = 2
    """Audio frames that are averaged into one token."""
    audio_chunk_length: float | int = 1.0
    """Seconds of sound; a frame sees no later chunk than its own."""
    image_token_id: int = 128_244
    """Id of `<unk>`, the placeholder of all media. It is in the released tokenizer, not in the released config."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Complete the nested configs. Raises ValueError for another model than 2.6."""
        super().__post_init__(**kwargs)
        if str(self.version) != str(VERSION):
            raise ValueError(f"MiniCPM-o {self.version} isn't supported, only {VERSION}")
        if self.drop_vision_last_layer:
            raise ValueError("drop_vision_last_layer = true isn't supported; MiniCPM-o 2.6 was released with false")
        self.vision_config.vision_use_head = False  # SigLIP's pooling head was not released
