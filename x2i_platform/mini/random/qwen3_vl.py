"""Writes `mini:random-qwen3-vl`: Qwen3-VL (features of several vision layers, times in words), 64 wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from x2i_platform.mini.processors import qwen_settings, write_settings
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.random.words import chat_template, decoder_settings, rope_axes, tokenizer
from x2i_platform.mini.vocabularies import VISION_TOKENS

SEED = 2200
WIDTH, LAYERS, HEADS, HEAD_DIM = 64, 4, 4, 16
VISION_WIDTH = 32
PATCH, MERGE = 16, 2
IMAGE_SIDE_LIMIT = 256
MARKS = {"image": "<|vision_start|><|image_pad|><|vision_end|>", "video": "<|video_pad|>"}
"""The processor itself writes the marks around each pair of frames, after its time."""


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`."""
    words = tokenizer(captions, template=chat_template(MARKS))
    model = Qwen3VLForConditionalGeneration(_config(words)).eval()
    fill(model, seed=SEED)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    image, video = qwen_settings(patch=PATCH, merge=MERGE, side_limit=IMAGE_SIDE_LIMIT)
    # Its video processor limits the pixels of all frames together.
    size = {"shortest_edge": 4 * (PATCH * MERGE) ** 2, "longest_edge": 64 * IMAGE_SIDE_LIMIT**2}
    write_settings(
        folder,
        processor_class="Qwen3VLProcessor",
        image_processor=image,
        video_processor={**video, "size": size, "video_processor_type": "Qwen3VLVideoProcessor"},
    )


def _config(words: Qwen2Tokenizer) -> Qwen3VLConfig:
    text = decoder_settings(words, width=WIDTH, layers=LAYERS, heads=HEADS) | {
        "head_dim": HEAD_DIM,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": rope_axes(HEAD_DIM),
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 3,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in VISION_TOKENS.items()}
    ids.pop("vision_pad_token_id")
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
