"""Writes `mini:random-minicpm-v`: MiniCPM-V 4.6 (Qwen3.5 with linear attention, sliced images), 64 wide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.processors import write_settings
from x2i_platform.mini.random.weights import fill
from x2i_platform.mini.random.words import chat_template, decoder_settings, tokenizer

SEED = 2400
WIDTH, LAYERS, HEADS, HEAD_DIM = 64, 4, 4, 16
VISION_WIDTH = 32
SLICE, PATCH = 112, 14
"""Side of a slice and of a patch in pixels; 4 x 4 patches become one token."""
TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MARKS = {"image": "<|image_pad|>", "video": "<|video_pad|>"}


def write(folder: Path, *, captions: Sequence[str]) -> None:
    """Build model, tokenizer and processor settings and save them under `folder`."""
    words = tokenizer(captions, template=chat_template(MARKS), tokens=TOKENS)
    model = MiniCPMV4_6ForConditionalGeneration(_config(words)).eval()
    fill(model, seed=SEED)
    model.save_pretrained(folder, safe_serialization=True)
    words.save_pretrained(folder)
    slices = {"scale_resolution": SLICE, "patch_size": PATCH, "max_slice_nums": 4}
    write_settings(
        folder,
        processor_class="MiniCPMV4_6Processor",
        image_processor={"image_processor_type": "MiniCPMV4_6ImageProcessor", **slices},
        video_processor={
            "video_processor_type": "MiniCPMV4_6VideoProcessor",
            "do_sample_frames": False,
            **slices,
            "max_slice_nums": 1,
        },
    )


def _config(words: Qwen2Tokenizer) -> MiniCPMV4_6Config:
    text = decoder_settings(words, width=WIDTH, layers=LAYERS, heads=HEADS) | {
        "model_type": "qwen3_5_text",
        "layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2),
        "head_dim": HEAD_DIM,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": HEAD_DIM,
        "linear_value_head_dim": HEAD_DIM,
    }
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 2 * VISION_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 16 * PATCH,
        "patch_size": PATCH,
    }
    return MiniCPMV4_6Config(
        text_config=text,
        vision_config=vision,
        insert_layer_id=1,
        image_size=SLICE,
        image_token_id=words.convert_tokens_to_ids(TOKENS["image_token"]),
        video_token_id=words.convert_tokens_to_ids(TOKENS["video_token"]),
        tie_word_embeddings=False,
    )
