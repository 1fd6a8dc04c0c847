"""Writes `mini:random-internvl`: InternVL2.5 or 3 in transformers' layout (Qwen2, InternViT, tiles), 64 wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.processors import write_settings
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.random.words import chat_template, decoder_settings, tokenizer

SEED = 2100
WIDTH, LAYERS, HEADS = 64, 3, 4
VISION_WIDTH = 32
TILE, PATCH = 56, 14
"""Side of a tile and of a patch in pixels."""
TILE_TOKENS = (TILE // PATCH // 2) ** 2
"""2 x 2 patches become one token."""
MOST_TILES = 4
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
MARKS = {"image": "<IMG_CONTEXT>\n", "video": "<video>\n"}


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`."""
    words = tokenizer(captions, template=chat_template(MARKS), tokens=TOKENS)
    model = InternVLForConditionalGeneration(_config(words)).eval()
    fill(model, seed=SEED)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    size = {"size": {"height": TILE, "width": TILE}}
    tiles = {"crop_to_patches": True, "min_patches": 1, "max_patches": MOST_TILES}
    write_settings(
        folder,
        processor_class="InternVLProcessor",
        image_seq_length=TILE_TOKENS,
        image_processor={"image_processor_type": "GotOcr2ImageProcessor", **size, **tiles},
        video_processor={"video_processor_type": "InternVLVideoProcessor", **size},
    )


def _config(words: Qwen2Tokenizer) -> InternVLConfig:
    text = decoder_settings(words, width=WIDTH, layers=LAYERS, heads=HEADS) | {
        "model_type": "qwen2",
    }
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": PATCH,
    }
    return InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=words.convert_tokens_to_ids(TOKENS["context_image_token"]),
        image_seq_length=TILE_TOKENS,
        tie_word_embeddings=False,
    )
