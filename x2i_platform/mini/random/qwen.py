"""Writes `mini:random-qwen2.5-vl`: Qwen2.5-VL (language model, vision tower, tokenizer, processors), 64 wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini import chat_template_path
from x2i_platform.mini.processors import write_processors
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.random.words import decoder_settings, rope_axes, tokenizer
from x2i_platform.mini.vocabularies import VISION_TOKENS

SEED = 2000
WIDTH = 64
LAYERS = 4
HEADS = 4
VISION_WIDTH = 32
PATCH, MERGE = 14, 2
IMAGE_SIDE_LIMIT = 224
"""Images and frames are scaled down to this square's area: 64 tokens of 28 x 28 pixels."""


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`; about 0.3 million parameters."""
    words = tokenizer(captions, template=chat_template_path().read_text("utf-8"))
    model = Qwen2_5_VLForConditionalGeneration(_config(words)).eval()
    fill(model, seed=SEED)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    write_processors(folder, patch=PATCH, merge=MERGE, side_limit=IMAGE_SIDE_LIMIT)


def _config(words: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    text = decoder_settings(words, width=WIDTH, layers=LAYERS, heads=HEADS) | {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": rope_axes(WIDTH // HEADS),
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": 4 * PATCH * MERGE,
        "fullatt_block_indexes": [1],
        "out_hidden_size": WIDTH,
    }
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in VISION_TOKENS.items()}
    ids.pop("vision_pad_token_id")  # a token of the vocabulary that the model's config doesn't name
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
